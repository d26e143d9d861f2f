#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""libpoolshift.so.1 for Python: the functions of poolshift.h that are needed.

Texts go in and come out as Python objects. A call that may block runs in an OS
thread of its own, so that it stops nobody else: under eventlet the calling
green thread looks for its end and the others go on. eventlet's own pool of
threads is not used, because it is small and Nova's calls to libvirt need it,
while poolshift_recover() may take hours.
"""

import ctypes
import json
import sys
import threading
import time

OK, INTERNAL, USAGE, REFUSED, UNDONE, HELD, CANCELLED, RUNNING = range(8)
ABI_MAJOR = 1

_SHORTEST_LOOK_S = 0.001
_LONGEST_LOOK_S = 0.1


class LibraryError(Exception):
    """The library said no: a sentence, and what to do about it."""

    def __init__(self, result, error):
        error = error or {}
        self.result = result
        self.code = error.get('code', 'internal')
        self.message = error.get('message', 'no reason was given')
        self.advice = error.get('advice', '')
        super(LibraryError, self).__init__(self.message)


class Unavailable(Exception):
    """There is no library that can be used."""


def _original_threads():
    """The unpatched module threading under eventlet, else None."""
    patcher = sys.modules.get('eventlet.patcher')
    if patcher is None or not patcher.is_monkey_patched('thread'):
        return None
    return patcher.original('threading')


def in_os_thread(function, *args):
    """Calls a function that blocks, without stopping other green threads.

    ctypes lets go of the interpreter's lock during a call, so where threads
    are native anyway nothing needs to be done.
    """
    threads = _original_threads()
    if threads is None:
        return function(*args)
    done = []

    def call():
        try:
            done.append((function(*args), None))
        except BaseException as reason:
            done.append((None, reason))

    threads.Thread(target=call, daemon=True).start()
    look_s = _SHORTEST_LOOK_S
    while not done:
        time.sleep(look_s)
        look_s = min(look_s * 2, _LONGEST_LOOK_S)
    value, reason = done[0]
    if reason is not None:
        raise reason
    return value


class Library(object):

    def __init__(self, path):
        try:
            self._library = ctypes.CDLL(path)
            handle, text = ctypes.c_void_p, ctypes.c_char_p
            out = ctypes.POINTER(ctypes.c_void_p)
            number = ctypes.c_int
            self._version = self._find('version', text)
            self._abi_version = self._find('abi_version', ctypes.c_uint)
            self._free = self._find('free', None, handle)
            self._host_open = self._find('host_open', number, text, out, out)
            self._host_close = self._find('host_close', None, handle)
            self._job_start = self._find('job_start', number, handle, text,
                                         out, out)
            self._job_wait = self._find('job_wait', number, handle, number,
                                        out, out)
            self._job_release = self._find('job_release', None, handle)
            self._jobs = self._find('jobs', number, handle, out, out)
            self._recover = self._find('recover', number, handle, text, out,
                                       out)
        except (OSError, AttributeError) as reason:
            raise Unavailable(str(reason))
        self.abi = self._abi_version()
        if self.abi // 1000 != ABI_MAJOR:
            raise Unavailable('%s has ABI %d.%d, %d.x is needed' % (
                path, self.abi // 1000, self.abi % 1000, ABI_MAJOR))
        self.version = self._version().decode('utf-8')

    def _find(self, name, result, *arguments):
        function = getattr(self._library, 'poolshift_' + name)
        function.restype = result
        function.argtypes = arguments
        return function

    def _take(self, pointer):
        """The object in a text that the library gave away, or None.

        The pointer is a c_void_p: of a c_char_p ctypes would make a copy and
        forget the address that has to be freed.
        """
        if not pointer:
            return None
        try:
            text = ctypes.string_at(pointer).decode('utf-8', 'replace')
        finally:
            self._free(pointer)
        return json.loads(text)

    def _call(self, function, *arguments):
        """Result, value of the out-parameter and error, of a blocking call."""
        value, error = ctypes.c_void_p(), ctypes.c_void_p()

        def call():
            return function(*arguments, ctypes.byref(value),
                            ctypes.byref(error))

        result = in_os_thread(call)
        return result, value.value, self._take(error.value)

    def open_host(self, options):
        result, host, error = self._call(self._host_open, _text(options))
        if result != OK:
            raise LibraryError(result, error)
        return Host(self, host)


class Host(object):
    """One libvirtd and one state folder."""

    def __init__(self, library, handle):
        self._lib = library
        self._handle = handle

    def start(self, request):
        result, job, error = self._lib._call(
            self._lib._job_start, self._handle, _text(request))
        if result != OK:
            raise LibraryError(result, error)
        return Job(self._lib, job)

    def jobs(self):
        """The status or report of every job of the state folder."""
        result, listed, error = self._lib._call(self._lib._jobs, self._handle)
        listed = self._lib._take(listed)
        if result != OK:
            raise LibraryError(result, error)
        return listed['jobs']

    def recover(self, job_id):
        """Carries an open job on; its report, or None when nothing was done.

        Blocks until the job has ended.
        """
        result, report, error = self._lib._call(
            self._lib._recover, self._handle,
            _text({'schema': 1, 'job': job_id}))
        report = self._lib._take(report)
        if report is None:
            raise LibraryError(result, error)
        jobs = [job for job in report['jobs'] if job.get('job') == job_id]
        return jobs[0] if jobs else None

    def close(self):
        handle, self._handle = self._handle, None
        in_os_thread(self._lib._host_close, handle)


class Job(object):
    """A view of one swap: losing it never cancels the swap."""

    def __init__(self, library, handle):
        self._lib = library
        self._handle = handle

    def look(self):
        """The job's result and its status: RUNNING, or how it ended."""
        result, status, error = self._lib._call(
            self._lib._job_wait, self._handle, 0)
        status = self._lib._take(status)
        if status is None:
            raise LibraryError(result, error)
        return result, status

    def release(self):
        handle, self._handle = self._handle, None
        self._lib._job_release(handle)


def _text(value):
    return json.dumps(value).encode('utf-8')


class Loader(object):
    """The library and the host of this process, opened when first needed."""

    def __init__(self, make_library=Library):
        self._make_library = make_library
        self._lock = threading.Lock()
        self._library = None
        self._unavailable = None
        self._host = None

    def host(self, path, options):
        """Raises Unavailable without library, LibraryError without host."""
        with self._lock:
            if self._unavailable is not None:
                raise self._unavailable
            if self._library is None:
                try:
                    self._library = self._make_library(path)
                except Unavailable as reason:
                    self._unavailable = reason
                    raise
            if self._host is None:
                self._host = self._library.open_host(options)
            return self._host
