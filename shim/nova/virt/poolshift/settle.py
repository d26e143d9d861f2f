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

"""Nova's and Cinder's records are made to say where a disk really is.

The compute manager tells Cinder and saves the BDM only after the driver has
returned. When nova-compute dies before, or Cinder is away then, nobody does it
later. So each swap is noted in a file before it begins, and the note is
removed when all records are right. A note is looked at

* when the manager is done with the swap: the instance's lock, which the
  manager holds meanwhile, is free again;
* when nova-compute starts. Then Cinder is also asked for migrations that have
  no note, because nova-compute died before it came to the driver.

Looking means: ask the library where the guest is (it asks libvirt and the
cluster), ask Cinder what it believes, and do only what is missing.

The guest is on the target         The guest is on the source
---------------------------------  ----------------------------------------
the BDM names the target           the new attachment is deleted
the new attachment is completed    'detaching' of the old volume is rolled
the old attachment is deleted      back
Cinder ends the migration          Cinder gives the migration up

The BDM comes first, at the very moment of the pivot: until then a hard reboot,
or an evacuation, would show the guest its old data.
"""

import copy
import json
import os
import threading
import time
import uuid

from oslo_log import log as logging
from oslo_serialization import jsonutils
from oslo_utils import timeutils

from nova.compute import instance_actions
import nova.conf
from nova import context as nova_context
from nova import exception
from nova import objects
from nova import utils
from nova.virt import block_device as driver_block_device
from nova.virt.poolshift import library
from nova.volume import cinder


CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

SOURCE, TARGET = 'source', 'target'

# How long a job that is held with a known outcome is tried again before the
# manager is told. Other jobs that are held are tried for as long as it takes.
HELD_PATIENCE_S = 60
# How long Cinder may be 'completing' before it is asked again.
COMPLETING_PATIENCE_S = 90
# Between two tries: at first so that all is right two minutes after Cinder is
# back, later so that the log does not fill.
LONGEST_PAUSE_S = 15
LONGEST_HELD_PAUSE_S = 60
LONGEST_LATE_PAUSE_S = 300
LATE_S = 600

ATTACHMENTS_MICROVERSION = '3.44'
# What the compute manager records of a swap while it works on it.
SWAP_EVENT = 'compute_swap_volume'


class NotYet(Exception):
    """What is missing cannot be done now; it is tried again."""


def _pauses(longest_s):
    began = time.monotonic()
    pause_s = 1
    while True:
        yield pause_s
        late = time.monotonic() - began > LATE_S
        pause_s = min(pause_s * 2,
                      LONGEST_LATE_PAUSE_S if late else longest_s)


class Note(object):
    """A swap whose end Nova or Cinder may not know yet, as a file."""

    # Written to the file. The rest of a note is known to this process only.
    FIELDS = ('swap', 'instance', 'mountpoint', 'migration', 'source_volume',
              'target_volume', 'source_attachment', 'target_attachment',
              'source_image', 'target_image', 'resize_to', 'connection_info')

    def __init__(self, **fields):
        for name in self.FIELDS:
            setattr(self, name, fields[name])
        self.job = None

    @property
    def save_volume(self):
        """The volume's id afterwards: a migrated volume keeps its own."""
        return self.source_volume if self.migration else self.target_volume

    @property
    def disk_dev(self):
        return self.mountpoint.rpartition('/')[2]

    def labels(self, context):
        """What the library's job and 'poolshift status' show of it."""
        labels = {
            'nova_swap': self.swap,
            'nova_instance': self.instance,
            'nova_mountpoint': self.mountpoint,
            'nova_request_id': context.request_id,
            'cinder_source_volume': self.source_volume,
            'cinder_target_volume': self.target_volume,
            'cinder_source_attachment': self.source_attachment,
            'cinder_target_attachment': self.target_attachment,
        }
        return {key: value for key, value in labels.items() if value}


class Notes(object):
    """The notes in the state folder."""

    def __init__(self, folder):
        self._folder = folder

    def _path(self, note):
        return os.path.join(self._folder, note.swap + '.json')

    def write(self, note):
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        temporary = self._path(note) + '.new'
        with open(temporary, 'w') as out:
            json.dump({name: getattr(note, name) for name in Note.FIELDS},
                      out)
            out.flush()
            os.fsync(out.fileno())
        os.rename(temporary, self._path(note))
        self._sync_folder()

    def remove(self, note):
        try:
            os.unlink(self._path(note))
        except FileNotFoundError:
            return
        self._sync_folder()

    def load(self):
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            if not name.endswith('.json'):
                continue
            path = os.path.join(self._folder, name)
            try:
                with open(path) as text:
                    found.append(Note(**json.load(text)))
            except (OSError, ValueError, TypeError, KeyError) as reason:
                LOG.error('The note of a swap cannot be read: %(path)s: '
                          '%(reason)s', {'path': path, 'reason': reason})
        return found

    def _sync_folder(self):
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Settler(object):

    def __init__(self, driver, get_host):
        self._driver = driver
        self._get_host = get_host

    @property
    def _notes(self):
        return Notes(os.path.join(CONF.poolshift.state_dir, 'nova'))

    @property
    def _volume_api(self):
        return self._driver._volume_api

    # Of a swap of this process.

    def note(self, context, instance, mountpoint, old_connection_info,
             new_connection_info, resize_to):
        """Notes a swap; None when its attachments are of an older kind."""
        source_volume = driver_block_device.get_volume_id(old_connection_info)
        target_volume = driver_block_device.get_volume_id(new_connection_info)
        bdm = objects.BlockDeviceMapping.get_by_volume_and_instance(
            context, source_volume, instance.uuid)
        if not bdm.attachment_id:
            return None
        volume = self._volume_api.get(context, source_volume)
        attachments = self._attachments(context, target_volume, instance.uuid)
        if len(attachments) != 1:
            raise exception.VolumeRebaseFailed(
                reason='volume %s has %d attachments to the instance, not one'
                       % (target_volume, len(attachments)))
        connection_info = copy.deepcopy(new_connection_info)
        # No secrets in the state folder. Nova gets it again from Cinder.
        connection_info['data'].pop('keyring', None)
        note = Note(
            swap=uuid.uuid4().hex,
            instance=instance.uuid,
            mountpoint=mountpoint,
            migration=volume.get('migration_status') == 'migrating',
            source_volume=source_volume,
            target_volume=target_volume,
            source_attachment=bdm.attachment_id,
            target_attachment=attachments[0].id,
            source_image=old_connection_info['data']['name'],
            target_image=new_connection_info['data']['name'],
            resize_to=resize_to or 0,
            connection_info=connection_info)
        self._notes.write(note)
        return note

    def forget(self, note):
        self._notes.remove(note)

    def bdm_saver(self, note):
        """A function that saves the BDM once; failing is not its end."""
        state = {'again': 0.0}

        def save():
            if state['again'] is None or time.monotonic() < state['again']:
                return
            try:
                self._save_bdm(nova_context.get_admin_context(), note)
                state['again'] = None
            except Exception as reason:
                state['again'] = time.monotonic() + 10
                LOG.warning('The BDM of volume %(volume)s cannot be saved '
                            'now: %(reason)s',
                            {'volume': note.source_volume, 'reason': reason})

        return save

    def until_it_may_be_told(self, host, note, report, instance):
        """Goes on with a held job until the manager may be told its end.

        * The guest is on the target, its data is not all there: Cinder would
          delete the source that it still needs.
        * It is not known where the guest is: told "done", Cinder deletes the
          source; told "failed", it deletes the target. Either may hold the
          last writes. And the instance's lock, which the manager holds, is
          what keeps the instance from being started on the wrong one.
        """
        began = time.monotonic()
        for pause_s in _pauses(LONGEST_HELD_PAUSE_S):
            if not _must_go_on(report, time.monotonic() - began):
                return report
            error = report.get('error') or {}
            LOG.warning("PoolShift job %(job)s is held, the guest is on: "
                        "%(guest_on)s. %(message)s. %(advice)s It is tried "
                        "again in %(pause)d s.",
                        {'job': report.get('job'),
                         'guest_on': report.get('guest_on'),
                         'message': error.get('message'),
                         'advice': error.get('advice'), 'pause': pause_s},
                        instance=instance)
            time.sleep(pause_s)
            report = self._recovered(host, note, report)

    def wait_for_cinder(self, context, note, instance):
        """Waits until Cinder does what the manager will ask of it next.

        If it did not, the manager would undo, and have Cinder delete the
        volume that the guest is on. A refusal is an answer too: who may not
        complete an attachment may not delete it.
        """
        for pause_s in _pauses(LONGEST_PAUSE_S):
            try:
                self._volume_api.attachment_complete(context,
                                                     note.target_attachment)
                return
            except Exception as reason:
                if _is_answer(reason):
                    return
                LOG.warning('The disk was swapped, but Cinder does not '
                            'answer; it is asked again in %(pause)d s: '
                            '%(reason)s',
                            {'pause': pause_s, 'reason': reason},
                            instance=instance)
            time.sleep(pause_s)

    def after_the_manager(self, note):
        _spawn(self._bring_home, note)

    # After a start of nova-compute.

    def start(self, host_name):
        started = timeutils.utcnow(with_timezone=True)
        notes = self._notes.load()
        if not (notes or CONF.poolshift.enabled):
            return
        if not CONF.cinder.auth_type:
            LOG.warning('[cinder] auth_type is not set: what a restart '
                        'interrupts cannot be settled with Cinder.')
        try:
            jobs = self._get_host().jobs()
        except (library.Unavailable, library.LibraryError) as reason:
            LOG.error('PoolShift cannot be used: %(reason)s. %(left)d swaps '
                      'of before the start are not looked at.',
                      {'reason': reason, 'left': len(notes)})
            return
        by_swap = {_swap_of(job): job for job in jobs if _swap_of(job)}
        # At once, so that nobody can start a guest on its old image meanwhile.
        for note in notes:
            job = by_swap.get(note.swap)
            if job is not None and job.get('guest_on') == TARGET:
                self.bdm_saver(note)()
        for note in notes:
            _spawn(self._settle_noted, note, host_name, started)
        noted = {note.swap for note in notes}
        for job in jobs:
            if _is_open(job) and _swap_of(job) not in noted:
                _spawn(self._recover_alone, job['job'])
        _spawn(self._settle_unnoted, {note.source_volume for note in notes},
               host_name, started)

    def _settle_noted(self, note, host_name, started):
        guest_on = self._bring_home(note)
        self._end_events(nova_context.get_admin_context(), note.instance,
                         guest_on, host_name, started)

    def _settle_unnoted(self, noted, host_name, started):
        """Migrations that nova-compute was told of, but not its driver."""
        context = nova_context.get_admin_context()
        for pause_s in _pauses(LONGEST_PAUSE_S):
            try:
                found = list(self._unnoted(context, noted, host_name,
                                           started))
                break
            except Exception as reason:
                LOG.warning('Migrations that were interrupted are looked for '
                            'again in %(pause)d s: %(reason)s',
                            {'pause': pause_s, 'reason': reason})
            time.sleep(pause_s)
        for note in found:
            self._settle_noted(note, host_name, started)

    def _unnoted(self, context, noted, host_name, started):
        client = cinder.cinderclient(context, ATTACHMENTS_MICROVERSION)
        here = set(objects.InstanceList.get_uuids_by_host(context, host_name))

        def volumes(migration_status):
            return client.volumes.list(search_opts={
                'all_tenants': True, 'migration_status': migration_status})

        for volume in volumes('migrating'):
            for instance_uuid in {each['server_id']
                                  for each in volume.attachments}:
                if volume.id in noted or instance_uuid not in here:
                    continue
                if not self._begun(context, instance_uuid, host_name,
                                   started):
                    continue  # the message still waits for this nova-compute
                note = self._note_of_migration(
                    context, instance_uuid, volume.id,
                    volumes('target:' + volume.id))
                if note is not None:
                    yield note

    def _note_of_migration(self, context, instance_uuid, volume_id, targets):
        try:
            bdm = objects.BlockDeviceMapping.get_by_volume_and_instance(
                context, volume_id, instance_uuid)
        except exception.VolumeBDMNotFound:
            return None
        connection_info = jsonutils.loads(bdm.connection_info or '{}')
        if (connection_info.get('driver_volume_type') != 'rbd' or
                len(targets) != 1):
            return None
        attachments = self._attachments(context, targets[0].id,
                                        instance_uuid)
        note = Note(
            swap=uuid.uuid4().hex,
            instance=instance_uuid,
            mountpoint=bdm.device_name,
            migration=True,
            source_volume=volume_id,
            target_volume=targets[0].id,
            source_attachment=bdm.attachment_id,
            target_attachment=attachments[0].id if attachments else None,
            source_image=connection_info['data']['name'],
            target_image=None,
            resize_to=0,
            connection_info=connection_info)
        if self._guest_on_by_xml(note) != SOURCE:
            LOG.warning('Volume %(volume)s is migrating, but nobody does it, '
                        'and the disk %(disk)s of instance %(instance)s is '
                        'not on %(image)s alone. Look at it yourself.',
                        {'volume': volume_id, 'disk': note.mountpoint,
                         'instance': instance_uuid,
                         'image': note.source_image})
            return None
        return note

    def _begun(self, context, instance_uuid, host_name, started):
        """The swaps of before the start that were begun and never ended."""
        found = []
        for action in objects.InstanceActionList.get_by_instance_uuid(
                context, instance_uuid):
            if action.action != instance_actions.SWAP_VOLUME:
                continue
            events = objects.InstanceActionEventList.get_by_action(
                context, action.id)
            if any(event.event == SWAP_EVENT and not event.finish_time and
                   event.host == host_name and event.start_time < started
                   for event in events):
                found.append(action)
        return found

    def _end_events(self, context, instance_uuid, guest_on, host_name,
                    started):
        """What nobody works on any more is not shown as if somebody did."""
        try:
            for action in self._begun(context, instance_uuid, host_name,
                                      started):
                context.request_id = action.request_id
                objects.InstanceActionEvent.event_finish_with_failure(
                    context, instance_uuid, SWAP_EVENT,
                    exc_val=None if guest_on == TARGET
                    else 'nova-compute was restarted meanwhile',
                    want_result=False)
        except Exception as reason:
            LOG.warning('The events of instance %(instance)s cannot be '
                        'ended: %(reason)s',
                        {'instance': instance_uuid, 'reason': reason})

    def _recover_alone(self, job_id):
        """A job that Nova did not ask for."""
        try:
            self._get_host().recover(job_id)
        except library.LibraryError as reason:
            LOG.warning('PoolShift job %(job)s: %(reason)s. %(advice)s',
                        {'job': job_id, 'reason': reason,
                         'advice': reason.advice})

    # Both.

    def _bring_home(self, note):
        """Tries until the records are right; where the guest is."""
        began = time.monotonic()
        context = nova_context.get_admin_context()
        for pause_s in _pauses(LONGEST_PAUSE_S):
            try:
                return self._look_once(context, note,
                                       time.monotonic() - began)
            except Exception as reason:
                level = (logging.WARNING if isinstance(reason, NotYet)
                         else logging.ERROR)
                LOG.log(level, 'The swap of volume %(volume)s of instance '
                        '%(instance)s is not settled yet, it is tried again '
                        'in %(pause)d s: %(reason)s',
                        {'volume': note.source_volume,
                         'instance': note.instance, 'pause': pause_s,
                         'reason': reason})
            time.sleep(pause_s)

    def _look_once(self, context, note, waited_s):
        @utils.synchronized(note.instance)
        def under_the_instance_lock():
            guest_on = self._where_is_the_guest(note)
            if guest_on == TARGET:
                did = self._forward(context, note, waited_s)
            else:
                did = self._back(context, note)
            self._notes.remove(note)
            LOG.log(logging.WARNING if did else logging.DEBUG,
                    'The guest %(instance)s is on the %(guest_on)s of the '
                    'swap of volume %(volume)s; done for that: %(did)s',
                    {'instance': note.instance, 'guest_on': guest_on,
                     'volume': note.source_volume,
                     'did': ', '.join(did) or 'nothing'})
            return guest_on

        return under_the_instance_lock()

    def _where_is_the_guest(self, note):
        host = self._get_host()
        job = self._job(host, note)
        if job is None:
            # It was refused, or nova-compute died before it began, or an
            # operator removed its journal.
            return self._guest_on_by_xml(note) or self._guest_on_by_bdm(note)
        note.job = job['job']
        if _is_open(job):
            job = self._recovered(host, note, job)
        while job.get('guest_on') == 'unknown':
            # With the instance's lock: see until_it_may_be_told().
            job = self.until_it_may_be_told(host, note, job, None)
        if _is_open(job):
            if job.get('guest_on') == TARGET:
                self._save_bdm(nova_context.get_admin_context(), note)
            error = job.get('error') or {}
            raise NotYet('PoolShift job %s is held: %s. %s' % (
                job['job'], error.get('message'), error.get('advice')))
        return TARGET if job['guest_on'] == TARGET else SOURCE

    def _job(self, host, note):
        for job in host.jobs():
            if _swap_of(job) == note.swap:
                return job
        return None

    def _recovered(self, host, note, before):
        """The report of a job after another try."""
        try:
            if note.job is None:
                job = self._job(host, note)
                if job is None:
                    return before
                note.job = job['job']
            return host.recover(note.job) or before
        except library.LibraryError as reason:
            if reason.code == 'not_found':
                guest_on = self._guest_on_by_xml(note)
                if guest_on is not None:
                    return {'job': note.job, 'guest_on': guest_on,
                            'engine': before.get('engine'),
                            'state': 'done' if guest_on == TARGET
                            else 'undone', 'error': before.get('error')}
            return dict(before, error={'message': reason.message,
                                       'advice': reason.advice})

    def _guest_on_by_xml(self, note):
        """What the domain says; None when it says nothing clear.

        Only for a swap without a journal. While there is one the library
        decides, which looks at the domain too, and at more than that.
        """
        try:
            instance = objects.Instance.get_by_uuid(
                nova_context.get_admin_context(), note.instance)
            disk = self._driver._host.get_guest(instance).get_disk(
                note.disk_dev)
        except (exception.InstanceNotFound, exception.NotFound):
            return None
        if disk is None or getattr(disk, 'mirror', None) is not None:
            return None
        return {note.source_image: SOURCE,
                note.target_image: TARGET}.get(disk.source_name)

    def _guest_on_by_bdm(self, note):
        """What was recorded at the pivot, if it came so far."""
        bdm = self._bdm(nova_context.get_admin_context(), note)
        if bdm is not None and note.target_attachment and (
                bdm.attachment_id == note.target_attachment):
            return TARGET
        return SOURCE

    def _bdm(self, context, note):
        bdms = objects.BlockDeviceMappingList.get_by_instance_uuid(
            context, note.instance)
        return next((bdm for bdm in bdms if bdm.volume_id in (
            note.source_volume, note.target_volume)), None)

    def _save_bdm(self, context, note):
        """Makes the BDM name the target; whether that was missing."""
        bdm = self._bdm(context, note)
        if bdm is None:
            return False  # the instance is gone, or the volume is detached
        now = jsonutils.loads(bdm.connection_info or '{}')
        if (bdm.attachment_id == note.target_attachment and
                bdm.volume_id == note.save_volume and
                (now.get('data') or {}).get('name') == note.target_image):
            return False
        connection_info = copy.deepcopy(note.connection_info)
        connection_info['serial'] = note.save_volume
        connection_info['volume_id'] = note.save_volume
        connection_info['data']['volume_id'] = note.save_volume
        values = {
            'connection_info': jsonutils.dumps(connection_info),
            'source_type': 'volume',
            'destination_type': 'volume',
            'snapshot_id': None,
            'volume_id': note.save_volume,
            'no_device': None,
            'attachment_id': note.target_attachment,
        }
        if note.resize_to:
            values['volume_size'] = note.resize_to
        bdm.update(values)
        bdm.save()
        return True

    def _attachments(self, context, volume_id, instance_uuid):
        client = cinder.cinderclient(context, ATTACHMENTS_MICROVERSION)
        found = client.attachments.list(
            detailed=True,
            search_opts={'all_tenants': True, 'volume_id': volume_id})
        return [attachment for attachment in found
                if attachment.instance == instance_uuid and
                attachment.volume_id == volume_id]

    def _volume(self, context, volume_id):
        try:
            return self._volume_api.get(context, volume_id)
        except exception.VolumeNotFound:
            return None

    def _forward(self, context, note, waited_s):
        """Cinder gets what the manager would have told it."""
        did = []
        if self._save_bdm(context, note):
            did.append('BDM saved')
        volume = self._volume(context, note.source_volume)
        status = volume.get('migration_status') if volume else None
        if note.migration and status == 'error':
            raise NotYet(
                'the guest is on %s, but Cinder gave the migration up. '
                "'poolshift rescue' brings the guest back to the image that "
                'Cinder names. Until then do not reboot it' %
                note.target_image)
        if status == 'completing' and waited_s < COMPLETING_PATIENCE_S:
            raise NotYet('Cinder is completing the migration')
        attachments = {
            attachment.id: attachment
            for volume_id in (note.source_volume, note.target_volume)
            for attachment in self._attachments(context, volume_id,
                                                note.instance)}
        new = attachments.get(note.target_attachment)
        if new is not None and new.status != 'attached':
            self._volume_api.attachment_complete(context, new.id)
            did.append('new attachment completed')
        if note.source_attachment in attachments:
            self._volume_api.attachment_delete(context,
                                               note.source_attachment)
            did.append('old attachment deleted')
        if note.migration and status in ('migrating', 'completing'):
            self._volume_api.migrate_volume_completion(
                context, note.source_volume, note.target_volume, error=False)
            did.append('migration completed')
        return did

    def _back(self, context, note):
        """Cinder gets what the manager would have told it of a failure."""
        did = []
        attachments = self._attachments(context, note.target_volume,
                                        note.instance)
        if note.target_attachment in [each.id for each in attachments]:
            self._volume_api.attachment_delete(context,
                                               note.target_attachment)
            did.append('new attachment deleted')
        volume = self._volume(context, note.source_volume)
        if volume is None:
            return did
        if volume['status'] == 'detaching':
            self._volume_api.roll_detaching(context, note.source_volume)
            did.append("'detaching' rolled back")
        if note.migration and volume.get('migration_status') == 'migrating':
            self._volume_api.migrate_volume_completion(
                context, note.source_volume, note.target_volume, error=True)
            did.append('migration given up')
        return did


def _spawn(function, *args):
    """A thread of its own; a green one under eventlet."""
    def run():
        try:
            function(*args)
        except Exception:
            LOG.exception('PoolShift: unexpected')

    threading.Thread(target=run, daemon=True).start()


def _swap_of(job):
    return (job.get('labels') or {}).get('nova_swap')


def _is_open(job):
    return job.get('state') in ('held', 'open')


def _must_go_on(report, waited_s):
    if not _is_open(report):
        return False
    if report['guest_on'] == 'unknown' or report['state'] == 'open':
        return True
    if report['guest_on'] == TARGET and report.get('engine') != 'mirror':
        return True
    return waited_s < HELD_PATIENCE_S


def _is_answer(reason):
    code = getattr(reason, 'code', None) or getattr(reason, 'http_status',
                                                    None)
    return isinstance(code, int) and code < 500
