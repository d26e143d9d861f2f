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

from unittest import mock

from nova.tests.unit.virt.libvirt import test_driver
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt import poolshift


class Module(object):
    """nova.virt.libvirt.driver, to read and to patch, with our class."""

    def __getattribute__(self, name):
        if name == 'LibvirtDriver':
            return poolshift.LibvirtDriver
        return getattr(libvirt_driver, name)

    def __setattr__(self, name, value):
        setattr(libvirt_driver, name, value)

    def __delattr__(self, name):
        delattr(libvirt_driver, name)


class NovasOwnTestCase(test_driver.LibvirtConnTestCase):

    def setUp(self):
        # In the tests' module only: in Nova's own, super() looks its name up.
        module = Module()
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
