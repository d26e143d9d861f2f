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
import json
import os
import types
from unittest import mock

import eventlet

from nova import exception
from nova import utils
from nova.virt.poolshift import library
from nova.virt.poolshift import settle

from tests import base
from tests import fakes

HYDRATED = [fakes.running('prepare', 'source'),
            fakes.running('pivot', 'unknown'),
            fakes.running('hydrate', 'target', 50, 100),
            fakes.report('done', 'target')]
UNDONE = [fakes.running('prepare', 'source'),
          fakes.running('copy', 'source', 50, 100),
          fakes.report('undone', 'source')]
REFUSED = [fakes.report('refused', 'source')]


class DeathTestCase(base.ShimTestCase):
    """nova-compute dies before or after each call; a restart mends it.

    Nova's own compute manager makes the calls.
    """

    def end_of(self, script, migration=True, die_at=None, then=None):
        self.begin(fakes.World(migration), script=list(script))
        self.world.die_at = die_at
        try:
            self.manage()
        except fakes.Died as point:
            died = str(point)
        except exception.VolumeRebaseFailed:
            died = None
        else:
            died = None
        (then or self.restart)()
        return died

    def assert_mended(self, script):
        """Gives the points at which it died."""
        self.end_of(script)
        points = len(self.world.calls)
        self.assertLess(10, points)
        deaths = set()
        for die_at in range(1, points + 1):
            died = self.end_of(script, die_at=die_at)
            if died is None:
                break  # the rest was called by the restart
            deaths.add(died)
            problems = self.world.problems()
            self.assertEqual([], problems,
                             'died %s: %s' % (died, self.world.calls))
            self.assertEqual([], self.driver._settler._notes.load(), died)
            self.assertEqual([], self.world.events, died)
            self.assertGreater(120, self.now)
            self.now = 0.0
        return deaths

    def test_of_a_swap_that_succeeds(self):
        deaths = self.assert_mended(HYDRATED)
        for point in ('after job_start', 'after look at hydrate',
                      'before attachment_complete',
                      'after attachment_complete', 'before attachment_delete',
                      'after attachment_delete',
                      'before migrate_volume_completion',
                      'after migrate_volume_completion', 'before bdm.save',
                      'after bdm.save', 'before get',
                      'before attachment_update', 'after attachment_update'):
            self.assertIn(point, deaths)

    def test_of_a_swap_that_is_undone(self):
        deaths = self.assert_mended(UNDONE)
        for point in ('after look at undone', 'before roll_detaching',
                      'after attachment_delete',
                      'after migrate_volume_completion'):
            self.assertIn(point, deaths)

    def test_of_a_swap_that_is_refused(self):
        self.assert_mended(REFUSED)

    def test_the_guest_keeps_its_writes(self):
        # Died when the guest was on the target, and nobody was told.
        self.end_of(HYDRATED)
        at = self.world.calls.index('after look at hydrate') + 1
        died = self.end_of(HYDRATED, die_at=at)
        self.assertEqual('after look at hydrate', died)
        self.assertEqual(fakes.NEW_IMAGE, self.world.guest_image)
        self.assertEqual([], self.world.problems())

    def test_a_swap_of_two_volumes_by_nova_itself(self):
        self.end_of(HYDRATED, migration=False)
        points = self.world.calls.index('after job_start') + 1
        volumes = set()
        for die_at in range(points, points + 30):
            if not self.end_of(HYDRATED, migration=False, die_at=die_at):
                break
            self.assertEqual([], self.world.problems(), self.world.calls)
            volumes.add(self.world.bdm['volume_id'])
        self.assertEqual({fakes.OLD, fakes.NEW}, volumes)

    def test_the_manager_did_it_all(self):
        self.end_of(HYDRATED, then=lambda: None)
        self.assertEqual([], self.world.problems())
        self.assertEqual(1, len(self.driver._settler._notes.load()))
        before = list(self.world.calls)
        with mock.patch('nova.virt.poolshift.settle.LOG.log') as log:
            self.run_spawned()
        self.assertEqual([], self.driver._settler._notes.load())
        self.assertEqual(settle.logging.DEBUG, log.call_args[0][0])
        changed = [call for call in self.world.calls[len(before):]
                   if call.startswith('after')]
        self.assertEqual([], changed)

    def test_it_waits_until_the_manager_is_done(self):
        self.end_of(HYDRATED, then=lambda: None)

        @utils.synchronized(fakes.INSTANCE)
        def manager_is_at_it():
            settling = eventlet.spawn(self.run_spawned)
            for _ in range(100):
                eventlet.sleep(0)
            self.assertEqual(1, len(self.driver._settler._notes.load()))
            return settling

        manager_is_at_it().wait()
        self.assertEqual([], self.driver._settler._notes.load())

    def test_the_events_say_how_it_ended(self):
        self.end_of(HYDRATED, then=lambda: None)
        at = self.world.calls.index('after look at hydrate') + 1
        self.end_of(HYDRATED, die_at=at)
        self.assertIsNone(self.event_finish.call_args[1]['exc_val'])
        self.end_of(UNDONE, die_at=at)
        self.assertIn('restarted', self.event_finish.call_args[1]['exc_val'])


class NobodyDiedTestCase(base.ShimTestCase):
    """The manager's calls fail, and the same process mends it."""

    def fail_at(self, name, times=1):
        self.begin(fakes.World(), script=list(HYDRATED))
        original = getattr(fakes.VolumeApi, name)
        left = [times]

        def failing(api, *args, **kwargs):
            if self.in_manager and left[0]:
                left[0] -= 1
                raise exception.CinderConnectionFailed(reason='down')
            return original(api, *args, **kwargs)

        self.in_manager = False
        self.patch_object(fakes.VolumeApi, name, failing)
        swap = self.driver.swap_volume

        def swap_volume(*args, **kwargs):
            swap(*args, **kwargs)
            self.in_manager = True

        self.driver.swap_volume = swap_volume
        self.assertRaises(exception.CinderConnectionFailed, self.manage)
        self.assertNotEqual([], self.world.problems())
        self.run_spawned()
        self.assertEqual([], self.world.problems())

    def test_the_old_attachment_was_not_deleted(self):
        self.fail_at('attachment_delete')

    def test_the_migration_was_not_completed(self):
        self.fail_at('migrate_volume_completion')

    def test_it_takes_until_cinder_is_back(self):
        self.fail_at('attachment_delete', times=20)
        self.assertLess(60, self.now)

    def test_the_bdm_is_saved_again(self):
        self.begin(fakes.World(), script=list(HYDRATED))
        saves = []

        def save(bdm):
            saves.append(bdm)
            if len(saves) < 4:
                raise exception.NovaException('no conductor')
            self.world.bdm = bdm._values

        self.patch_object(fakes.Bdm, 'save', save)
        self.assertRaises(exception.NovaException, self.manage)
        self.run_spawned()
        self.assertEqual([], self.world.problems())


class StartTestCase(base.ShimTestCase):

    def die(self, script, at):
        self.begin(fakes.World(), script=list(script))
        try:
            self.manage()
        except exception.VolumeRebaseFailed:
            pass
        die_at = self.world.calls.index(at) + 1
        self.begin(fakes.World(), script=list(script))
        self.world.die_at = die_at
        self.assertRaises(fakes.Died, self.manage)
        del self.spawned[:]
        del self.slept[:]
        self.now = 0.0
        self.driver = self.new_driver()

    def start(self):
        self.driver._settler.start(fakes.HOST)

    def test_the_bdm_is_right_before_anything_can_start_a_guest(self):
        self.die(HYDRATED, 'after look at hydrate')
        self.assertEqual(fakes.OLD_ATTACHMENT,
                         self.world.bdm['attachment_id'])
        # Not even Cinder is needed for it.
        self.world.outage = exception.CinderConnectionFailed(reason='down')
        self.start()
        self.assertEqual(fakes.NEW_ATTACHMENT,
                         self.world.bdm['attachment_id'])
        self.assertIn(fakes.NEW_IMAGE, self.world.bdm['connection_info'])
        self.assertEqual([], self.slept)

    def test_it_does_not_hold_up_nova_compute(self):
        self.die(HYDRATED, 'after look at hydrate')
        self.start()
        self.assertNotIn('recover', self.world.calls)
        self.assertEqual([], self.slept)
        self.assertEqual(2, len(self.spawned))

    def test_a_job_that_stays_held_is_not_told_to_cinder(self):
        self.die(HYDRATED, 'after look at hydrate')
        held = fakes.report('held', 'target')
        self.library.recovery = [held] * 20
        self.start()
        self.run_spawned()
        self.assertEqual([], self.library.recovery)
        self.assertEqual([], self.world.problems())

    def test_an_unknown_place_is_waited_for(self):
        self.die(HYDRATED, 'after look at pivot')
        unknown = fakes.report('held', 'unknown')
        self.library.recovery = [unknown] * 20 + [
            fakes.report('done', 'target')]
        self.start()
        self.run_spawned()
        self.assertEqual([], self.world.problems())

    def test_cinder_is_away_at_the_start(self):
        self.die(HYDRATED, 'after attachment_complete')
        self.world.outage = exception.CinderConnectionFailed(reason='down')
        sleep = self._sleep

        def sleep_and_mend(seconds):
            sleep(seconds)
            if self.now > 300:
                self.world.outage = None

        self.patch('time.sleep', sleep_and_mend)
        self.start()
        self.run_spawned()
        self.assertEqual([], self.world.problems())
        self.assertGreater(300 + 120, self.now)

    def test_neither_journal_nor_domain(self):
        self.die(HYDRATED, 'before attachment_complete')
        self.world.jobs.clear()
        self.driver._host.get_guest.side_effect = exception.InstanceNotFound(
            instance_id=fakes.INSTANCE)
        self.start()
        self.run_spawned()
        self.assertEqual([], self.world.problems())
        self.assertEqual(fakes.NEW_IMAGE,
                         self.world.volumes[fakes.OLD]['image'])

    def test_jobs_of_others_are_recovered(self):
        self.world.jobs['job1'] = fakes.report('held', 'target', labels={})
        self.start()
        self.run_spawned()
        self.assertEqual('done', self.world.jobs['job1']['state'])

    def test_nothing_to_do_and_switched_off(self):
        self.flags(enabled=False, group='poolshift')
        self.start()
        self.assertIsNone(self.library.options)

    def test_switched_off_ends_what_was_begun(self):
        self.die(HYDRATED, 'after look at hydrate')
        self.flags(enabled=False, group='poolshift')
        self.start()
        self.run_spawned()
        self.assertEqual([], self.world.problems())

    def test_no_library_is_said(self):
        self.die(HYDRATED, 'after look at hydrate')
        self.driver._poolshift._make_library = mock.Mock(
            side_effect=library.Unavailable('no such file'))
        with mock.patch('nova.virt.poolshift.settle.LOG.error') as error:
            self.start()
        error.assert_called_once()
        self.assertEqual([], self.spawned)

    def test_cinder_gave_up_a_migration_that_was_done(self):
        self.die(HYDRATED, 'before attachment_complete')
        self.world.volumes[fakes.OLD]['migration_status'] = 'error'
        with mock.patch('nova.virt.poolshift.settle.LOG.log',
                        side_effect=[None] * 5 + [fakes.Died]) as log:
            self.start()
            self.assertRaises(fakes.Died, self.run_spawned)
        self.assertIn('poolshift rescue', str(log.call_args[0][2]))
        self.assertIn(fakes.NEW_IMAGE, self.world.bdm['connection_info'])

    def completing(self):
        self.die(HYDRATED, 'before migrate_volume_completion')
        self.world.volumes[fakes.OLD]['migration_status'] = 'completing'

    def test_cinder_is_completing(self):
        self.completing()
        self.world.completes = True
        sleep = self._sleep

        def sleep_and_complete(seconds):
            sleep(seconds)
            if self.now > 30 and self.world.completes:
                self.world.completes = False
                self.driver._volume_api.migrate_volume_completion(
                    None, fakes.OLD, fakes.NEW)

        self.patch('time.sleep', sleep_and_complete)
        self.start()
        self.run_spawned()
        self.assertEqual([], self.world.problems())

    def test_cinder_died_while_it_was_completing(self):
        self.completing()
        self.start()
        self.run_spawned()
        self.assertEqual([], self.world.problems())
        self.assertLess(60, self.now)
        self.assertGreater(120, self.now)


class UnnotedTestCase(base.ShimTestCase):
    """nova-compute died before it came to the driver."""

    def begun(self, **kwargs):
        event = dict(event=settle.SWAP_EVENT, finish_time=None,
                     host=fakes.HOST,
                     start_time=datetime.datetime(
                         2020, 1, 1, tzinfo=datetime.timezone.utc))
        event.update(kwargs)
        self.world.events.append(types.SimpleNamespace(**event))

    def assert_settled(self):
        self.restart()
        self.assertEqual([], self.world.problems())
        self.assertEqual([], self.world.events)
        self.assertEqual('error',
                         self.world.volumes[fakes.OLD]['migration_status'])

    def assert_left_alone(self):
        self.restart()
        self.assertEqual('migrating',
                         self.world.volumes[fakes.OLD]['migration_status'])
        self.assertEqual(2, len(self.world.attachments))

    def test_it_is_given_up(self):
        self.begun()
        self.assert_settled()

    def test_the_new_attachment_is_gone_already(self):
        self.begun()
        del self.world.attachments[fakes.NEW_ATTACHMENT]
        self.assert_settled()

    def test_the_message_was_not_received_yet(self):
        self.assert_left_alone()

    def test_it_is_received_after_the_start(self):
        self.begun(start_time=datetime.datetime(
            2999, 1, 1, tzinfo=datetime.timezone.utc))
        self.assert_left_alone()

    def test_it_was_ended(self):
        self.begun(finish_time=datetime.datetime(
            2020, 1, 2, tzinfo=datetime.timezone.utc))
        self.assert_left_alone()

    def test_another_host_does_it(self):
        self.begun(host='compute2')
        self.assert_left_alone()

    def test_nova_itself_copied_the_disk(self):
        self.begun()
        self.world.mirror = mock.Mock()
        self.assert_left_alone()

    def test_the_guest_is_on_another_image(self):
        self.begun()
        self.world.guest_image = fakes.NEW_IMAGE
        self.assert_left_alone()

    def test_another_protocol(self):
        self.begun()
        self.world.bdm['connection_info'] = json.dumps(
            {'driver_volume_type': 'iscsi', 'data': {}})
        self.assert_left_alone()


class PausesTestCase(base.ShimTestCase):

    def test_often_at_first_and_seldom_later(self):
        at = []
        for pause_s in settle._pauses(settle.LONGEST_PAUSE_S):
            at.append(self.now)
            if self.now > 3600:
                break
            self._sleep(pause_s)
        self.assertEqual([0, 1, 3, 7, 15], at[:5])
        self.assertGreaterEqual(15, max(later - sooner for sooner, later in
                                        zip(at, at[1:]) if later < 600))
        self.assertEqual(300, at[-1] - at[-2])


class NotesTestCase(base.ShimTestCase):

    def note(self, **data):
        return self.driver._settler.note(
            self.context, self.instance, '/dev/vdb',
            fakes.connection_info(fakes.OLD_IMAGE, fakes.OLD),
            fakes.connection_info(fakes.NEW_IMAGE, fakes.NEW, **data), 0)

    def test_kept(self):
        note = self.note()
        found, = self.driver._settler._notes.load()
        self.assertEqual(
            {name: getattr(note, name) for name in note.FIELDS},
            {name: getattr(found, name) for name in note.FIELDS})

    def test_no_secrets(self):
        self.note(keyring='[client.cinder] key = AQD')
        folder = os.path.join(self.state_dir, 'nova')
        name, = os.listdir(folder)
        with open(os.path.join(folder, name)) as text:
            self.assertNotIn('AQD', text.read())

    def test_one_that_is_torn_does_not_hide_the_others(self):
        self.note()
        for name, text in (('a.json', '{"swap": "a", "inst'),
                           ('b.json', '{}'), ('c.json.new', '{'),
                           ('d.json', '[]')):
            with open(os.path.join(self.state_dir, 'nova', name),
                      'w') as out:
                out.write(text)
        with mock.patch('nova.virt.poolshift.settle.LOG.error') as error:
            self.assertEqual(1, len(self.driver._settler._notes.load()))
        self.assertEqual(3, error.call_count)

    def test_written_before_the_job_begins(self):
        self.library.start = mock.Mock(side_effect=fakes.Died)
        self.assertRaises(fakes.Died, self.swap)
        self.assertEqual(1, len(self.driver._settler._notes.load()))

    def test_a_larger_target(self):
        self.swap(resize_to=5)
        self.assertEqual(5, self.world.bdm['volume_size'])
