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

"""Nova's own unit tests of swap_volume, with our driver in Nova's place."""

import types
from unittest import mock

from nova.tests.unit.virt.libvirt import test_driver
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt import poolshift


class NovasOwnTestCase(test_driver.LibvirtConnTestCase):

    def setUp(self):
        # In the tests' module only: in Nova's own, super() looks its name up.
        module = types.ModuleType('ours')
        module.__dict__.update(vars(libvirt_driver))
        module.LibvirtDriver = poolshift.LibvirtDriver
        patcher = mock.patch.object(test_driver, 'libvirt_driver', module)
        patcher.start()
        self.addCleanup(patcher.stop)
        super(NovasOwnTestCase, self).setUp()

    def test_it_is_ours(self):
        self.assertIs(poolshift.LibvirtDriver,
                      test_driver.libvirt_driver.LibvirtDriver)


def load_tests(loader, tests, pattern):
    names = [name for name in loader.getTestCaseNames(NovasOwnTestCase)
             if 'swap_volume' in name or name == 'test_it_is_ours']
    return loader.suiteClass([NovasOwnTestCase(name) for name in names])
