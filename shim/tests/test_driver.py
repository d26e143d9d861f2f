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

from unittest import mock

from nova import exception
from nova import objects
from nova.virt.libvirt import driver as libvirt_driver
from nova.virt.poolshift import library

from tests import base
from tests import fakes


class RequestTestCase(base.ShimTestCase):
    """What the library is asked for."""

    def request(self, **kwargs):
        self.swap(**kwargs)
        return self.library.requests[0]

    def test_all_of_the_connection_infos_and_options(self):
        self.flags(engine='mirror', hydrate='flatten', bandwidth=50,
                   max_pause=1.5, group='poolshift')
        new = fakes.connection_info(
            'ssd/tenants/volume-' + fakes.NEW, fakes.NEW,
            hosts=['10.0.0.1', '[fd00::2]'], auth_username='cinder-ssd',
            secret_uuid='another-secret')
        request = self.request(new=new)
        labels = request.pop('labels')
        self.assertEqual(
            {'schema': 1,
             'domain': fakes.INSTANCE,
             'disk': 'vdb',
             'source': fakes.OLD_IMAGE,
             'target': 'ssd/tenants/volume-' + fakes.NEW,
             'target_access': {
                 'mon_hosts': ['10.0.0.1:6789', '[fd00::2]:3300'],
                 'user': 'cinder-ssd',
                 'secret_uuid': 'another-secret'},
             'engine': 'mirror',
             'hydrate': 'flatten',
             'max_pause_ms': 1500,
             'bandwidth_bytes_per_s': 50 * 1024 * 1024,
             'source_after': 'keep'}, request)
        self.assertEqual(32, len(labels.pop('nova_swap')))
        self.assertEqual(
            {'nova_instance': fakes.INSTANCE,
             'nova_mountpoint': '/dev/vdb',
             'nova_request_id': self.context.request_id,
             'cinder_source_volume': fakes.OLD,
             'cinder_target_volume': fakes.NEW,
             'cinder_source_attachment': fakes.OLD_ATTACHMENT,
             'cinder_target_attachment': fakes.NEW_ATTACHMENT}, labels)

    def test_the_secret_of_nova_where_cinder_names_none(self):
        self.flags(rbd_user='nova', rbd_secret_uuid='secret-of-nova',
                   group='libvirt')
        new = fakes.connection_info(fakes.NEW_IMAGE, fakes.NEW,
                                    secret_uuid=None)
        access = self.request(new=new)['target_access']
        self.assertEqual('nova', access['user'])
        self.assertEqual('secret-of-nova', access['secret_uuid'])

    def test_no_cephx(self):
        new = fakes.connection_info(fakes.NEW_IMAGE, fakes.NEW,
                                    auth_enabled=False, auth_username=None,
                                    secret_uuid=None)
        self.assertEqual(['mon_hosts'],
                         list(self.request(new=new)['target_access']))

    def test_host_options(self):
        self.flags(overlay_dir='/o', guardian='/g', patience=7,
                   log_file='/l', log_level='debug', group='poolshift')
        self.swap()
        self.assertEqual(
            {'schema': 1, 'connect': 'qemu:///system',
             'state_dir': self.state_dir, 'overlay_dir': '/o',
             'guardian': '/g', 'patience_s': 7, 'log_file': '/l',
             'log_level': 'debug', 'log_journald': True},
            self.library.options)


class NotForPoolShiftTestCase(base.ShimTestCase):
    """Nova's own driver gets it unchanged."""

    def setUp(self):
        super(NotForPoolShiftTestCase, self).setUp()
        self.nova = mock.Mock()
        self.patch_object(libvirt_driver.LibvirtDriver, 'swap_volume',
                          self.nova)

    def assert_left_to_nova(self, old=None, new=None):
        old = old or fakes.connection_info(fakes.OLD_IMAGE, fakes.OLD)
        new = new or fakes.connection_info(fakes.NEW_IMAGE, fakes.NEW)
        self.swap(old=old, new=new, resize_to=3)
        self.nova.assert_called_once_with(self.context, old, new,
                                          self.instance, '/dev/vdb', 3)
        self.assertEqual([], self.library.requests)
        self.driver._connect_volume.assert_not_called()
        self.assertEqual([], self.driver._settler._notes.load())
        self.assertEqual([], self.spawned)

    def test_switched_off(self):
        self.flags(enabled=False, group='poolshift')
        self.assert_left_to_nova()

    def test_another_protocol(self):
        self.assert_left_to_nova(new={'driver_volume_type': 'iscsi',
                                      'data': {}})

    def test_another_protocol_before(self):
        self.assert_left_to_nova(old={'driver_volume_type': 'nfs',
                                      'data': {}})

    def test_another_cluster(self):
        self.assert_left_to_nova(new=fakes.connection_info(
            fakes.NEW_IMAGE, fakes.NEW, hosts=['10.9.0.1', '10.9.0.2']))

    def test_encrypted(self):
        self.driver._get_volume_encryption.side_effect = [
            {}, {'provider': 'luks'}]
        self.assert_left_to_nova()

    def test_attached_before_cinder_had_attachments(self):
        self.world.bdm['attachment_id'] = None
        self.assert_left_to_nova()

    def test_no_library_is_said_once(self):
        self.driver._poolshift._make_library = mock.Mock(
            side_effect=library.Unavailable('no such file'))
        with mock.patch('nova.virt.poolshift.driver.LOG.error') as error:
            self.assert_left_to_nova()
            self.swap()
        error.assert_called_once()
        self.assertEqual(2, self.nova.call_count)

    def test_a_state_folder_that_cannot_be_used_is_not_left_to_nova(self):
        self.library.open_host = mock.Mock(side_effect=library.LibraryError(
            library.HELD, {'message': 'no rights', 'advice': 'Give them.'}))
        self.assertRaises(exception.VolumeRebaseFailed, self.swap)
        self.nova.assert_not_called()
        self.library.open_host = lambda options: self.library
        self.swap()
        self.assertEqual(1, len(self.library.requests))


class SwapTestCase(base.ShimTestCase):

    def old(self):
        return fakes.connection_info(fakes.OLD_IMAGE, fakes.OLD)

    def new(self):
        return fakes.connection_info(fakes.NEW_IMAGE, fakes.NEW)

    def assert_disconnected(self, connection_info):
        self.driver._disconnect_volume.assert_called_once_with(
            self.context, connection_info, self.instance)

    def assert_fails(self, message='pool ssd is full'):
        reason = self.assertRaises(exception.VolumeRebaseFailed, self.swap)
        self.assertIn(message, str(reason))
        self.driver._connect_volume.assert_called_once_with(
            self.context, self.new(), self.instance)
        self.assert_disconnected(self.new())

    def test_connects_the_new_and_disconnects_the_old(self):
        self.swap()
        self.driver._connect_volume.assert_called_once_with(
            self.context, self.new(), self.instance)
        self.assert_disconnected(self.old())

    def test_the_domain_is_left_alone(self):
        self.swap()
        guest = self.driver._host.get_guest.return_value
        guest.delete_configuration.assert_not_called()
        self.driver._host.write_instance_config.assert_not_called()

    def test_no_such_disk(self):
        guest = self.driver._host.get_guest.return_value
        guest.get_disk.side_effect = None
        guest.get_disk.return_value = None
        self.assertRaises(exception.DiskNotFound, self.swap)
        self.driver._connect_volume.assert_not_called()

    def test_refused(self):
        self.begin(fakes.World(), script=[fakes.report('refused', 'source')])
        with mock.patch('nova.virt.poolshift.driver.LOG.error') as error:
            self.assert_fails()
        self.assertIn('Make room.', str(error.call_args))
        self.assertEqual([], self.slept)

    def test_undone(self):
        self.begin(fakes.World(), script=[fakes.report('undone', 'source')])
        self.assert_fails()

    def test_cancelled(self):
        self.begin(fakes.World(),
                   script=[fakes.report('cancelled', 'source')])
        self.assert_fails()

    def test_a_request_that_the_library_does_not_understand(self):
        self.library.start = mock.Mock(side_effect=library.LibraryError(
            library.USAGE, {'message': 'key "labels" is not known',
                            'advice': ''}))
        self.assert_fails('key "labels" is not known')

    def test_more_than_one_new_attachment(self):
        self.world.attachments['another'] = dict(
            self.world.attachments[fakes.NEW_ATTACHMENT], id='another')
        self.assertRaises(exception.VolumeRebaseFailed, self.swap)
        self.assertEqual([], self.library.requests)

    def test_held_on_the_source_is_tried_again_and_then_raised(self):
        held = fakes.report('held', 'source')
        self.begin(fakes.World(), script=[held], recovery=[held] * 100)
        self.assert_fails()
        self.assertLess(60, self.now)
        self.assertGreater(180, self.now)

    def test_held_on_the_source_and_then_undone(self):
        held = fakes.report('held', 'source')
        self.begin(fakes.World(), script=[held], recovery=[held])
        self.assert_fails()
        self.assertGreater(10, self.now)

    # After the pivot there is no error.

    def test_disconnecting_the_old_fails(self):
        self.driver._disconnect_volume.side_effect = Exception('unexpected')
        self.swap()

    def test_hydration_that_is_held_is_tried_until_it_is_done(self):
        held = fakes.report('held', 'target')
        self.begin(fakes.World(), script=[held], recovery=[held] * 50)
        self.swap()
        self.assertEqual('done', self.world.jobs['job1']['state'])
        # Tried often at first, and not so often that it fills the log.
        self.assertLess(10 * 60, self.now)

    def test_a_retirement_that_is_held_is_not_waited_for(self):
        held = fakes.report('held', 'target', engine='mirror')
        self.begin(fakes.World(), script=[held], recovery=[held] * 50)
        with mock.patch('nova.virt.poolshift.driver.LOG.warning') as warning:
            self.swap()
        self.assertIn('pool ssd is full', str(warning.call_args))
        self.assertGreater(180, self.now)
        self.assert_disconnected(self.old())

    def test_an_unknown_place_is_not_told_before_it_is_known(self):
        unknown = fakes.report('held', 'unknown')
        self.begin(fakes.World(), script=[unknown],
                   recovery=[unknown] * 50 + [fakes.report('done',
                                                           'target')])
        self.swap()
        self.assertLess(10 * 60, self.now)

    def test_an_unknown_place_turns_out_to_be_the_source(self):
        unknown = fakes.report('held', 'unknown')
        self.begin(fakes.World(), script=[unknown],
                   recovery=[unknown] * 50 + [fakes.report('undone',
                                                           'source')])
        self.assert_fails()

    def test_a_job_that_cannot_be_followed_is_not_over(self):
        self.begin(fakes.World(), script=[
            fakes.running('hydrate', 'target'),
            library.LibraryError(library.HELD, {'message': 'damaged'})],
            recovery=[library.LibraryError(library.HELD, None)] * 5)
        self.swap()
        self.assertEqual(6, self.world.calls.count('recover'))

    def test_a_journal_that_somebody_removed(self):
        self.begin(fakes.World(), script=[fakes.report('held', 'unknown')],
                   recovery=[library.LibraryError(library.REFUSED, {
                       'code': 'not_found', 'message': 'no such job'})])
        self.world.guest_image = fakes.NEW_IMAGE
        self.swap()

    def test_a_journal_that_somebody_removed_of_a_guest_on_the_source(self):
        self.begin(fakes.World(), script=[fakes.report('held', 'unknown')],
                   recovery=[library.LibraryError(library.REFUSED, {
                       'code': 'not_found', 'message': 'no such job'})])
        self.assert_fails()

    def test_cinder_is_waited_for(self):
        self.begin(fakes.World())
        complete = mock.Mock(
            side_effect=[exception.CinderConnectionFailed(reason='down')] *
            10 + [None])
        self.driver._volume_api.attachment_complete = complete
        self.swap()
        self.assertEqual(11, complete.call_count)
        complete.assert_called_with(self.context, fakes.NEW_ATTACHMENT)

    def test_a_refusal_by_cinder_is_an_answer(self):
        self.driver._volume_api.attachment_complete = mock.Mock(
            side_effect=exception.Forbidden('no'))
        self.swap()
        self.driver._volume_api.attachment_complete.assert_called_once()

    def test_the_bdm_names_the_target_as_soon_as_the_guest_is_there(self):
        seen = []
        self.begin(fakes.World(), script=[
            fakes.running('copy', 'source'),
            fakes.running('hydrate', 'target', 0, 100),
            fakes.running('hydrate', 'target', 50, 100),
            fakes.report('done', 'target')])
        self.driver._log_end = mock.Mock(side_effect=lambda *args: None)
        sleep = self._sleep

        def look_and_sleep(seconds):
            seen.append(self.world.bdm['attachment_id'])
            sleep(seconds)

        self.patch('time.sleep', look_and_sleep)
        self.swap()
        self.assertEqual([fakes.OLD_ATTACHMENT, fakes.NEW_ATTACHMENT,
                          fakes.NEW_ATTACHMENT], seen)
        self.assertEqual(1, self.world.calls.count('after bdm.save'))

    def test_a_bdm_that_cannot_be_saved_ends_nothing(self):
        self.patch_object(
            objects.BlockDeviceMappingList, 'get_by_instance_uuid',
            mock.Mock(side_effect=exception.NovaException('no conductor')))
        self.swap()

    def test_progress_every_ten_per_cent(self):
        self.begin(fakes.World(), script=[
            fakes.running('copy', 'source', done, 1000)
            for done in range(0, 1001, 7)] + [
            fakes.report('done', 'target')])
        with mock.patch('nova.virt.poolshift.driver.LOG.info') as info:
            self.swap()
        percents = [call[0][1]['percent'] for call in info.call_args_list
                    if 'percent' in call[0][1]]
        self.assertEqual([10, 20, 30, 40, 50, 60, 70, 80, 90],
                         [percent - percent % 10 for percent in percents])
