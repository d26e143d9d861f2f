#!/usr/bin/python3
"""A whole swap through libpoolshift with ctypes, as a Python caller would do it.

Needs the real thing: a libvirtd, a cluster, a running guest.

    abi_swap.py LIBRARY OPTIONS REQUEST RESULT

OPTIONS and REQUEST are the JSON of poolshift_host_open() and poolshift_job_start(), RESULT is the number that the
swap must end with. The last line on stdout is the report.
"""

import ctypes
import json
import sys
import time

OK, INTERNAL, USAGE, REFUSED, UNDONE, HELD, CANCELLED, RUNNING = range(8)
STATES = {OK: 'done', REFUSED: 'refused', UNDONE: 'undone', HELD: 'held', CANCELLED: 'cancelled'}
SLICE_MS = 200
MOST_SECONDS = 3600

REPORT_KEYS = {'schema', 'job', 'state', 'guest_on', 'engine', 'source', 'target', 'bytes', 'seconds', 'checks',
               'error'}
BYTES_KEYS = {'virtual', 'source_used', 'target_used', 'copied'}
SECONDS_KEYS = {'validate', 'prepare', 'copy', 'pivot', 'retire', 'pause', 'total'}


def require(condition, what, found=None):
    if not condition:
        sys.exit(f'expected: {what}; found: {found}')


class Library:
    """The functions of poolshift.h; texts come as Python objects and are freed."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        handle, text, out = ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)
        self._declare('version', ctypes.c_char_p)
        self._declare('abi_version', ctypes.c_uint)
        self._declare('capabilities', ctypes.c_void_p)
        self._declare('free', None, ctypes.c_void_p)
        self._declare('host_open', ctypes.c_int, text, out, out)
        self._declare('host_close', None, handle)
        self._declare('job_start', ctypes.c_int, handle, text, out, out)
        self._declare('job_attach', ctypes.c_int, handle, text, out, out)
        self._declare('job_wait', ctypes.c_int, handle, ctypes.c_int, out, out)
        self._declare('job_fd', ctypes.c_int, handle)
        self._declare('job_release', None, handle)
        self._declare('jobs', ctypes.c_int, handle, out, out)

    def _declare(self, name, result, *arguments):
        function = getattr(self.c, 'poolshift_' + name)
        function.restype = result
        function.argtypes = arguments
        setattr(self, '_' + name, function)

    def _take(self, pointer):
        """The object in a text that the library gave away, or None."""
        if not pointer:
            return None
        # c_void_p and not c_char_p: ctypes would copy the latter and forget the address that has to be freed.
        text = ctypes.string_at(pointer).decode('utf-8')
        self._free(pointer)
        return json.loads(text)

    def _call(self, function, *arguments):
        """Result, value of the out-parameter, error."""
        value, error = ctypes.c_void_p(), ctypes.c_void_p()
        result = function(*arguments, ctypes.byref(value), ctypes.byref(error))
        return result, value.value, self._take(error.value)

    def abi(self):
        return self._abi_version()

    def capabilities(self):
        return self._take(self._capabilities())

    def open_host(self, options):
        result, host, error = self._call(self._host_open, options.encode())
        require(result == OK, 'the host opens', error)
        return host

    def close_host(self, host):
        self._host_close(host)

    def start(self, host, request):
        result, job, error = self._call(self._job_start, host, request.encode())
        require(result == OK, 'the job starts', error)
        return job

    def attach(self, host, job_id):
        result, job, error = self._call(self._job_attach, host, job_id.encode())
        require(result == OK, f'job {job_id} can be attached to', error)
        return job

    def wait(self, job, timeout_ms):
        result, status, _ = self._call(self._job_wait, job, timeout_ms)
        return result, self._take(status)

    def fd(self, job):
        return self._job_fd(job)

    def release(self, job):
        self._job_release(job)

    def job_ids(self, host):
        result, listed, error = self._call(self._jobs, host)
        require(result == OK, 'the jobs are listed', error)
        return [job['job'] for job in self._take(listed)['jobs']]


class Watcher:
    """A second view of the job, through a host of its own, as another process would have it."""

    def __init__(self, library, options):
        self.library = library
        self.host = library.open_host(options)
        self.job = None
        self.seen_running = False

    def look(self, job_id):
        if self.job is None:
            if job_id not in self.library.job_ids(self.host):
                return  # it has no journal yet
            self.job = self.library.attach(self.host, job_id)
        result, status = self.library.wait(self.job, 0)
        require(status['job'] == job_id, 'the view is of the same job', status)
        self.seen_running = self.seen_running or result == RUNNING

    def finish(self, job_id, expected, report):
        self.look(job_id)
        result, last = self.library.wait(self.job, 5000)
        require(result == expected, f'the second view ends with {expected}', (result, last))
        for key in ('job', 'state', 'guest_on', 'source', 'target'):
            require(last[key] == report[key], f'both views agree on "{key}"', (last[key], report[key]))
        require(self.seen_running or expected != OK, 'the second view saw the job run', last)
        self.library.release(self.job)

    def close(self):
        self.library.close_host(self.host)


def check_status(status):
    for key in ('schema', 'job', 'phase', 'running', 'guest_on'):
        require(key in status, f'a running job\'s status has "{key}"', status)
    require(status['running'] is True, 'a running job says so', status)
    require(status['guest_on'] in ('source', 'target', 'unknown'), 'guest_on is one of three words', status)
    progress = status.get('progress') or {}
    if 'total_bytes' in progress:
        require(0 <= progress['done_bytes'] <= progress['total_bytes'], 'done is not more than total', progress)


def follow(library, job, watcher):
    """Waits in slices; gives the result, the report, and what progress was seen."""
    progress_seen = 0
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline:
        began = time.monotonic()
        result, status = library.wait(job, SLICE_MS)
        if result != RUNNING:
            return result, status, progress_seen
        waited_ms = (time.monotonic() - began) * 1000
        require(SLICE_MS * 0.5 < waited_ms < SLICE_MS + 2000, f'a wait of {SLICE_MS} ms', waited_ms)
        check_status(status)
        progress_seen += (status.get('progress') or {}).get('done_bytes', 0) > 0
        if status['job']:
            watcher.look(status['job'])
    sys.exit(f'expected: the swap ends within {MOST_SECONDS} s')


def check_report(report, expected):
    require(REPORT_KEYS <= report.keys(), f'the report has {sorted(REPORT_KEYS - report.keys())}', report)
    require(BYTES_KEYS <= report['bytes'].keys(), 'the report has all bytes', report['bytes'])
    require(SECONDS_KEYS <= report['seconds'].keys(), 'the report has all seconds', report['seconds'])
    require(report['state'] == STATES[expected], f'the state {STATES[expected]}', report)
    guest_on = {OK: 'target', UNDONE: 'source', CANCELLED: 'source'}.get(expected)
    require(guest_on in (None, report['guest_on']), f'the guest is on the {guest_on}', report['guest_on'])
    require((report['error'] is None) == (expected == OK) or expected == CANCELLED, 'an error unless it is done',
            report['error'])
    for check in report['checks']:
        require({'name', 'result', 'found', 'do'} <= check.keys(), 'a check has four keys', check)


def main(path, options, request, expected):
    library = Library(path)
    require(library.abi() // 1000 == 1, 'ABI 1.x', library.abi())
    require('mirror' in library.capabilities()['engines'], 'the engine mirror', library.capabilities())
    host = library.open_host(options)
    watcher = Watcher(library, options)
    job = library.start(host, request)
    require(library.fd(job) >= 0, 'a job of this process has a descriptor')
    result, report, progress_seen = follow(library, job, watcher)
    require(result == expected, f'the result {expected}', (result, report))
    check_report(report, expected)
    if expected != REFUSED:
        watcher.finish(report['job'], expected, report)
    if expected == OK:
        require(progress_seen > 0, 'progress was seen')
    library.release(job)
    watcher.close()
    library.close_host(host)
    print(json.dumps(report))


if __name__ == '__main__':
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
