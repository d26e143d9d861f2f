"""Requests that are malformed must be refused with USAGE and an error that helps, and start nothing.

bad_requests.py LIBRARY LIBVIRT-URI STATE-DIR
"""

import ctypes
import json
import sys

USAGE = 2
GOOD = {'schema': 1, 'domain': 'web', 'disk': 'vda', 'target': 'volumes-ssd/web'}


def but(**changes):
    return json.dumps({**GOOD, **changes}).encode()


BAD = {
    'no text': b'',
    'no JSON': b'swap web please',
    'cut off': but()[:-1],
    'two documents': but() + but(),
    'a list': b'[]',
    'a number': b'7',
    'null': b'null',
    'no keys': b'{}',
    'no domain': b'{"schema":1,"disk":"vda","target":"volumes-ssd/web"}',
    'no schema': b'{"domain":"web","disk":"vda","target":"volumes-ssd/web"}',
    'another schema': but(schema=2),
    'an unknown key': but(colour='red'),
    'a key of another case': but(Domain='web'),
    'a number for a text': but(domain=7),
    'a text for a number': but(bandwidth_bytes_per_s='50M'),
    'a fraction': but(bandwidth_bytes_per_s=1.5),
    'a negative number': but(bandwidth_bytes_per_s=-1),
    'a number that is too large': but()[:-1] + b',"bandwidth_bytes_per_s":99999999999999999999}',
    'a text for a boolean': but(create='yes'),
    'an object for a text': but(disk={'name': 'vda'}),
    'an unknown engine': but(engine='telepathy'),
    'an empty domain': but(domain=''),
    'a target without image': but(target='volumes-ssd'),
    'a target with four parts': but(target='a/b/c/d'),
    'an unknown key inside': but(target_access={'password': 'x'}),
    'a long domain': but(domain='x' * 300),
    'a long target': but(target='volumes-ssd/' + 'x' * 3000),
    'too long a text': but(domain='x' * (2 << 20)),
    'deep nesting': b'{"schema":1,"domain":' + b'[' * 100000 + b']' * 100000 + b'}',
    'not UTF-8': b'{"schema":1,"domain":"\xff\xfe","disk":"vda","target":"volumes-ssd/web"}',
    'UTF-8 cut off': b'{"schema":1,"domain":"\xc3","disk":"vda","target":"volumes-ssd/web"}',
    'an overlong UTF-8 sequence': b'{"schema":1,"domain":"\xc0\xaf","disk":"vda","target":"volumes-ssd/web"}',
    'a key twice': b'{"schema":1,"domain":"web","domain":"db","disk":"vda","target":"volumes-ssd/web"}',
}


def main(path, uri, state_dir):
    library = ctypes.CDLL(path)
    void, text, out = ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)
    for name, types in {'host_open': (text, out, out), 'check': (void, text, out, out),
                        'job_start': (void, text, out, out)}.items():
        getattr(library, 'poolshift_' + name).argtypes = types
    library.poolshift_free.argtypes = (void,)
    library.poolshift_free.restype = None
    library.poolshift_host_close.argtypes = (void,)
    library.poolshift_host_close.restype = None

    host, error = void(), void()
    options = json.dumps({'schema': 1, 'connect': uri, 'state_dir': state_dir}).encode()
    if library.poolshift_host_open(options, ctypes.byref(host), ctypes.byref(error)) != 0:
        sys.exit(f'the host does not open: {ctypes.string_at(error.value)}')
    wrong = []
    for what, request in BAD.items():
        for function in (library.poolshift_check, library.poolshift_job_start):
            value, error = void(), void()
            result = function(host, request, ctypes.byref(value), ctypes.byref(error))
            said = json.loads(ctypes.string_at(error.value)) if error.value else {}
            if result != USAGE or value.value or not all(said.get(key) for key in ('code', 'message', 'advice')):
                wrong.append(f'{what}, {function.__name__}: result {result}, error {said}')
            library.poolshift_free(error)
    library.poolshift_host_close(host)
    print(f'{len(BAD)} malformed requests')
    if wrong:
        sys.exit('\n'.join(wrong))


if __name__ == '__main__':
    main(*sys.argv[1:])
