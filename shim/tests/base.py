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

import datetime
import os
import types
from unittest import mock

from nova.compute import manager
from nova import context as nova_context
from nova import exception
from nova import objects
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.unit import fake_instance
from nova.virt import fake
from nova.virt.libvirt import config as vconfig
from nova.virt import poolshift
from nova.virt.poolshift import settle
from nova.volume import cinder

from tests import fakes


class ShimTestCase(test.NoDBTestCase):
    """The driver in a fake world. Time passes only when somebody sleeps."""

    def setUp(self):
        super(ShimTestCase, self).setUp()
        self.useFixture(nova_fixtures.LibvirtFixture())
        self.state_dir = self.useFixture(
            nova_fixtures.fixtures.TempDir()).path
        self.flags(state_dir=self.state_dir, group='poolshift')
        self.flags(auth_type='password', group='cinder')
        self.context = nova_context.get_admin_context()
        self.instance = fake_instance.fake_instance_obj(
            self.context, uuid=fakes.INSTANCE, host=fakes.HOST,
            expected_attrs=['system_metadata'])
        self.now = 0.0
        self.slept = []
        self.spawned = []
        self.patch('time.sleep', self._sleep)
        self.patch('time.monotonic', lambda: self.now)
        self.patch('nova.virt.poolshift.settle._spawn',
                   lambda function, *args: self.spawned.append(
                       (function, args)))
        self.begin(fakes.World())

    def patch(self, what, by):
        patcher = mock.patch(what, by)
        patcher.start()
        self.addCleanup(patcher.stop)

    def patch_object(self, where, what, by):
        patcher = mock.patch.object(where, what, by)
        patcher.start()
        self.addCleanup(patcher.stop)

    def _sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        if self.now > 100000:
            raise AssertionError('this waits for ever')

    def begin(self, world, **library):
        notes = settle.Notes(os.path.join(self.state_dir, 'nova'))
        for note in notes.load():
            notes.remove(note)
        del self.spawned[:]
        self.world = world
        self.library = fakes.Library(world, **library)
        client = fakes.CinderClient(world)
        self.patch_object(cinder, 'cinderclient',
                          lambda context, microversion: client)
        self.patch_object(objects.BlockDeviceMapping,
                          'get_by_volume_and_instance', self._get_bdm)
        self.patch_object(objects.BlockDeviceMappingList,
                          'get_by_instance_uuid',
                          lambda context, uuid: [fakes.Bdm(world)])
        self.patch_object(objects.Instance, 'get_by_uuid',
                          lambda context, uuid: self.instance)
        self.patch_object(objects.InstanceList, 'get_uuids_by_host',
                          lambda context, host: [fakes.INSTANCE])
        self.patch_object(
            objects.InstanceActionList, 'get_by_instance_uuid',
            lambda context, uuid: [types.SimpleNamespace(
                action='swap_volume', id=7, request_id='req-7')])
        self.patch_object(objects.InstanceActionEventList, 'get_by_action',
                          lambda context, action_id: world.events)
        self.event_finish = mock.Mock(side_effect=self._event_finish)
        self.patch_object(objects.InstanceActionEvent,
                          'event_finish_with_failure', self.event_finish)
        self.driver = self.new_driver()

    def _get_bdm(self, context, volume_id, instance_uuid):
        bdm = fakes.Bdm(self.world)
        if bdm.volume_id != volume_id:
            raise exception.VolumeBDMNotFound(volume_id=volume_id)
        return bdm

    def _event_finish(self, context, instance_uuid, name, **kwargs):
        del self.world.events[:]

    def new_driver(self):
        self.world.die_at = self.world.died = None
        driver = poolshift.LibvirtDriver(fake.FakeVirtAPI(), False)
        driver._poolshift._make_library = self.library
        driver._volume_api = fakes.VolumeApi(self.world)
        driver._host = mock.Mock()
        driver._host.get_guest.return_value.get_disk.side_effect = (
            lambda disk_dev: mock.Mock(
                spec=vconfig.LibvirtConfigGuestDisk,
                source_name=self.world.guest_image,
                mirror=self.world.mirror))
        driver._connect_volume = mock.Mock()
        driver._disconnect_volume = mock.Mock()
        driver._get_volume_encryption = mock.Mock(return_value={})
        driver._set_cache_mode = mock.Mock()
        driver._sev_enabled = mock.Mock(return_value=False)
        driver._uri = lambda: 'qemu:///system'
        driver.get_volume_connector = mock.Mock(return_value={'host': 'h'})
        return driver

    def swap(self, old=None, new=None, mountpoint='/dev/vdb', resize_to=0):
        """As the manager calls the driver."""
        return self.driver.swap_volume(
            self.context,
            old or fakes.connection_info(fakes.OLD_IMAGE, fakes.OLD),
            new or fakes.connection_info(fakes.NEW_IMAGE, fakes.NEW),
            self.instance, mountpoint, resize_to)

    def manage(self):
        """Nova's own compute manager, from its lock on."""
        compute = types.SimpleNamespace(
            driver=self.driver, volume_api=self.driver._volume_api,
            host=fakes.HOST)
        for name in ('_swap_volume', '_init_volume_connection'):
            setattr(compute, name, types.MethodType(
                getattr(manager.ComputeManager, name), compute))
        self.world.events.append(types.SimpleNamespace(
            event=settle.SWAP_EVENT, finish_time=None, host=fakes.HOST,
            start_time=datetime.datetime(2020, 1, 1,
                                         tzinfo=datetime.timezone.utc)))
        with mock.patch('nova.compute.utils.notify_about_volume_swap'):
            manager.ComputeManager._do_swap_volume(
                compute, self.context, fakes.OLD, fakes.NEW, self.instance,
                fakes.NEW_ATTACHMENT)
        del self.world.events[:]

    def run_spawned(self):
        while self.spawned:
            function, args = self.spawned.pop(0)
            function(*args)

    def restart(self):
        """A new nova-compute, until it has nothing to do any more."""
        del self.spawned[:]
        self.driver = self.new_driver()
        self.driver._settler.start(fakes.HOST)
        self.run_spawned()
