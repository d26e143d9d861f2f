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

"""The binding, with the real library where there is one. No servers."""

import os
import threading
import time
from unittest import mock

import eventlet

from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.virt.poolshift import library

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARY = os.environ.get('POOLSHIFT_LIBRARY') or os.path.join(
    HERE, '..', '..', 'build', 'plugin', 'libpoolshift.so.1')


class OsThreadTestCase(test.NoDBTestCase):

    def setUp(self):
        super(OsThreadTestCase, self).setUp()
        self.sleep = eventlet.patcher.original('time').sleep

    def test_other_green_threads_go_on(self):
        ticks = []

        def tick():
            while True:
                ticks.append(time.monotonic())
                eventlet.sleep(0.01)

        other = eventlet.spawn(tick)
        library.in_os_thread(self.sleep, 0.5)
        other.kill()
        self.assertLess(20, len(ticks))

    def test_one_after_the_other_without_it(self):
        # What the test above would see if the call were simply made.
        ticks = []
        other = eventlet.spawn(lambda: ticks.append(1))
        self.sleep(0.1)
        self.assertEqual([], ticks)
        other.kill()

    def test_more_calls_than_eventlets_pool_has_threads(self):
        began = time.monotonic()
        calls = [eventlet.spawn(library.in_os_thread, self.sleep, 0.5)
                 for _ in range(60)]
        for call in calls:
            call.wait()
        self.assertGreater(3, time.monotonic() - began)

    def test_value_and_exception(self):
        self.assertEqual(3, library.in_os_thread(max, 1, 3, 2))
        self.assertRaises(ZeroDivisionError, library.in_os_thread, divmod, 1,
                          0)

    def test_native_threads(self):
        with mock.patch.object(library, '_original_threads',
                               return_value=None):
            self.assertEqual(
                threading.get_ident(),
                library.in_os_thread(threading.get_ident))


class LoaderTestCase(test.NoDBTestCase):

    def test_a_missing_library_is_looked_for_once(self):
        loader = library.Loader()
        path = os.path.join(HERE, 'nothing.so')
        with mock.patch.object(library.ctypes, 'CDLL',
                               side_effect=OSError('no such file')) as load:
            for _ in range(3):
                self.assertRaises(library.Unavailable, loader.host, path, {})
        load.assert_called_once_with(path)

    def test_not_the_library(self):
        self.assertRaises(library.Unavailable, library.Library, None)

    def test_a_host_that_cannot_be_opened_is_opened_later(self):
        opened = mock.Mock()
        opened.open_host.side_effect = [
            library.LibraryError(library.HELD, None), mock.sentinel.host]
        loader = library.Loader(mock.Mock(return_value=opened))
        self.assertRaises(library.LibraryError, loader.host, 'x', {})
        self.assertEqual(mock.sentinel.host, loader.host('x', {}))
        self.assertEqual(mock.sentinel.host, loader.host('x', {}))
        self.assertEqual(2, opened.open_host.call_count)


class RealLibraryTestCase(test.NoDBTestCase):

    def setUp(self):
        super(RealLibraryTestCase, self).setUp()
        if not os.path.exists(LIBRARY):
            self.skipTest('no library at %s: build it, or set '
                          'POOLSHIFT_LIBRARY' % LIBRARY)
        self.library = library.Library(LIBRARY)
        self.folder = self.useFixture(nova_fixtures.fixtures.TempDir()).path
        self.options = {
            'schema': 1, 'connect': 'test:///default',
            'state_dir': self.folder, 'overlay_dir': '', 'guardian': '',
            'patience_s': 1, 'log_file': '', 'log_level': 'info'}

    def open_host(self, **options):
        host = self.library.open_host(dict(self.options, **options))
        self.addCleanup(host.close)
        return host

    def request(self, **more):
        return dict({
            'schema': 1, 'domain': 'test', 'disk': 'vda',
            'source': 'hdd/old', 'target': 'ssd/tenants/new',
            'target_access': {'mon_hosts': ['127.0.0.1:1'], 'user': 'u',
                              'secret_uuid':
                              '00000000-0000-0000-0000-000000000000'},
            'engine': 'auto', 'hydrate': 'auto', 'max_pause_ms': 3000,
            'bandwidth_bytes_per_s': 0, 'source_after': 'keep',
            'labels': {'nova_swap': 'f' * 32}}, **more)

    def test_version(self):
        self.assertEqual(1, self.library.abi // 1000)
        self.assertRegex(self.library.version, r'^\d+\.\d+\.\d+')

    def test_another_abi(self):
        with mock.patch.object(library, 'ABI_MAJOR', 2):
            reason = self.assertRaises(library.Unavailable, library.Library,
                                       LIBRARY)
        self.assertIn('2.x is needed', str(reason))

    def test_an_option_that_it_does_not_know(self):
        reason = self.assertRaises(library.LibraryError, self.open_host,
                                   colour='blue')
        self.assertEqual(library.USAGE, reason.result)
        self.assertEqual('invalid', reason.code)
        self.assertIn('colour', reason.message)

    def test_a_state_folder_that_cannot_be_used(self):
        with open(os.path.join(self.folder, 'file'), 'w'):
            pass
        reason = self.assertRaises(
            library.LibraryError, self.open_host,
            state_dir=os.path.join(self.folder, 'file', 'below'))
        self.assertEqual(library.HELD, reason.result)
        self.assertNotEqual('', reason.message)
        self.assertNotEqual('', reason.advice)

    def test_a_malformed_request(self):
        host = self.open_host()
        for more in ({'disk': ''}, {'target': 'no-pool'},
                     {'max_pause_ms': 1}, {'engine': 'magic'},
                     {'colour': 'blue'}, {'labels': {'UPPER': 'x'}}):
            reason = self.assertRaises(library.LibraryError, host.start,
                                       self.request(**more))
            self.assertEqual(library.USAGE, reason.result)
            self.assertNotEqual('', reason.message)

    def test_no_jobs(self):
        host = self.open_host()
        self.assertEqual([], host.jobs())
        reason = self.assertRaises(library.LibraryError, host.recover,
                                   '0123456789ab')
        self.assertEqual(library.REFUSED, reason.result)
        self.assertEqual('not_found', reason.code)

    def test_a_swap_that_is_refused(self):
        # libvirt's test driver has a running domain 'test', without such a
        # disk: as far as one comes without servers.
        host = self.open_host()
        job = host.start(self.request())
        for _ in range(200):
            result, status = job.look()
            if result != library.RUNNING:
                break
            time.sleep(0.1)
        job.release()
        self.assertEqual(library.REFUSED, result)
        self.assertEqual('refused', status['state'])
        self.assertEqual('source', status['guest_on'])
        self.assertNotEqual('', status['error']['message'])
        self.assertEqual([], host.jobs())

    def test_many_at_once(self):
        host = self.open_host()
        calls = [eventlet.spawn(host.jobs) for _ in range(50)]
        self.assertEqual([[]] * 50, [call.wait() for call in calls])
