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

"""Nova's database, Cinder, libpoolshift and a guest, as far as a swap goes.

Each keeps its state in a World, so that a test can let nova-compute die before
or after any call and go on with a new one. What Cinder does is written after
cinder/volume/manager.py and cinder/volume/api.py of its release 21.
"""

import copy
import json
import types

from nova import exception
from nova.virt.poolshift import library

INSTANCE = '11111111-1111-1111-1111-111111111111'
OLD = 'aaaaaaaa-0000-0000-0000-000000000001'
NEW = 'bbbbbbbb-0000-0000-0000-000000000002'
OLD_ATTACHMENT = 'aaaaaaaa-0000-0000-0000-00000000000a'
NEW_ATTACHMENT = 'bbbbbbbb-0000-0000-0000-00000000000b'
OLD_IMAGE = 'hdd/volume-' + OLD
NEW_IMAGE = 'ssd/volume-' + NEW
HOST = 'compute1'


class Died(BaseException):
    """nova-compute was killed here."""


def connection_info(image, volume_id, **data):
    return {
        'driver_volume_type': 'rbd',
        'serial': volume_id,
        'data': dict({
            'name': image, 'hosts': ['10.0.0.1', '10.0.0.2'],
            'ports': ['6789', '3300'], 'cluster_name': 'ceph',
            'auth_enabled': True, 'auth_username': 'cinder',
            'secret_type': 'ceph', 'secret_uuid': 'secret-of-cinder',
            'volume_id': volume_id, 'discard': True, 'qos_specs': None,
            'access_mode': 'rw', 'encrypted': False}, **data),
    }


class World(object):
    """As Cinder and the API leave it when they call nova-compute."""

    def __init__(self, migration=True):
        self.migration = migration
        self.guest_image = OLD_IMAGE
        self.mirror = None
        self.volumes = {
            OLD: {'id': OLD, 'size': 1, 'multiattach': False,
                  'status': 'retyping' if migration else 'detaching',
                  'previous_status': 'in-use', 'image': OLD_IMAGE,
                  'migration_status': 'migrating' if migration else None},
            NEW: {'id': NEW, 'size': 1, 'multiattach': False,
                  'status': 'reserved', 'previous_status': None,
                  'image': NEW_IMAGE,
                  'migration_status': 'target:' + OLD if migration else None},
        }
        self.attachments = {
            OLD_ATTACHMENT: {'id': OLD_ATTACHMENT, 'volume_id': OLD,
                             'instance': INSTANCE, 'status': 'attached'},
            NEW_ATTACHMENT: {'id': NEW_ATTACHMENT, 'volume_id': NEW,
                             'instance': INSTANCE, 'status': 'reserved'},
        }
        self.bdm = {'volume_id': OLD, 'attachment_id': OLD_ATTACHMENT,
                    'device_name': '/dev/vdb', 'volume_size': 1,
                    'connection_info': json.dumps(
                        connection_info(OLD_IMAGE, OLD))}
        self.jobs = {}
        self.events = []  # of the manager: begun, not ended
        self.calls = []
        self.outage = None  # what each call to Cinder raises
        self.completes = False  # cinder-volume is at it
        self.harm = []  # what would have cost data
        self.die_at = None
        self.died = None

    def point(self, name):
        """A moment at which nova-compute may die."""
        if self.died:
            # What runs on the way out, "finally" for example, does nothing.
            raise Died(self.died)
        self.calls.append(name)
        if self.die_at == len(self.calls):
            self.died = name
            raise Died(name)

    def problems(self):
        """What is not as it must be once all is settled."""
        found = list(self.harm)

        def must(condition, what):
            if not condition:
                found.append(what)

        mine = [each for each in self.attachments.values()
                if each['instance'] == INSTANCE]
        name = json.loads(self.bdm['connection_info'])['data']['name']
        must(name == self.guest_image, 'BDM names %s' % name)
        must(len(mine) == 1, 'attachments %s' % mine)
        must(mine and mine[0]['id'] == self.bdm['attachment_id'],
             'BDM has attachment %s' % self.bdm['attachment_id'])
        must(mine and mine[0]['status'] == 'attached', 'not attached')
        must(mine and mine[0]['volume_id'] == self.bdm['volume_id'],
             'BDM has volume %s' % self.bdm['volume_id'])
        volume = self.volumes.get(self.bdm['volume_id'], {})
        must(volume.get('image') == self.guest_image,
             'Cinder names %s' % volume.get('image'))
        must(volume.get('status') == 'in-use',
             'volume is %s' % volume.get('status'))
        for each in self.volumes.values():
            must(each['migration_status'] in (None, 'success', 'error'),
                 'migration_status %s' % each['migration_status'])
            must(each is volume or each['status'] == 'available',
                 'the other is %s' % each['status'])
        return found


class VolumeApi(object):
    """nova.volume.cinder.API."""

    def __init__(self, world):
        self.world = world

    def _call(self, name):
        self.world.point('before ' + name)
        if self.world.outage is not None:
            raise self.world.outage

    def _volume(self, volume_id):
        try:
            return self.world.volumes[volume_id]
        except KeyError:
            raise exception.VolumeNotFound(volume_id=volume_id)

    def get(self, context, volume_id):
        self._call('get')
        return dict(self._volume(volume_id))

    def attachment_update(self, context, attachment_id, connector,
                          mountpoint=None):
        self._call('attachment_update')
        attachment = self.world.attachments.get(attachment_id)
        if attachment is None:
            raise exception.VolumeAttachmentNotFound(
                attachment_id=attachment_id)
        attachment['status'] = 'attaching'
        volume = self.world.volumes[attachment['volume_id']]
        volume['status'] = 'attaching'
        self.world.point('after attachment_update')
        return {'connection_info': connection_info(volume['image'],
                                                   volume['id'])}

    def attachment_complete(self, context, attachment_id):
        self._call('attachment_complete')
        attachment = self.world.attachments.get(attachment_id)
        if attachment is None:
            raise exception.VolumeAttachmentNotFound(
                attachment_id=attachment_id)
        attachment['status'] = 'attached'
        self.world.volumes[attachment['volume_id']]['status'] = 'in-use'
        self.world.point('after attachment_complete')

    def attachment_delete(self, context, attachment_id):
        self._call('attachment_delete')
        attachment = self.world.attachments.pop(attachment_id, None)
        if attachment is not None:
            volume = self.world.volumes[attachment['volume_id']]
            if volume['migration_status'] in (None, 'success', 'error'):
                volume['status'] = 'available'
        self.world.point('after attachment_delete')

    def roll_detaching(self, context, volume_id):
        self._call('roll_detaching')
        volume = self._volume(volume_id)
        if volume['status'] == 'detaching':
            volume['status'] = 'in-use'
        self.world.point('after roll_detaching')

    def migrate_volume_completion(self, context, old_id, new_id, error=False):
        self._call('migrate_volume_completion')
        old, new = self._volume(old_id), self._volume(new_id)
        if new['migration_status'] != 'target:' + old_id:
            raise exception.InvalidInput(reason='not mid-migration')
        if old['migration_status'] not in ('migrating', 'completing'):
            raise exception.InvalidInput(reason='not mid-migration')
        if old['migration_status'] == 'completing' and self.world.completes:
            self.world.harm.append('completed twice at once')
        if error:
            if any(each['volume_id'] == new_id
                   for each in self.world.attachments.values()):
                self.world.harm.append('the new volume is attached')
            if self.world.guest_image == new['image']:
                self.world.harm.append('the guest is on the new volume')
            old.update(status=old['previous_status'],
                       migration_status='error')
        else:
            if self.world.guest_image != new['image']:
                self.world.harm.append('the guest is on the old volume')
            if not all(job['state'] == 'done'
                       for job in self.world.jobs.values()):
                self.world.harm.append('the new volume needs the old one')
            old.update(status=old['previous_status'], image=new['image'],
                       migration_status='success')
            for each in self.world.attachments.values():
                if each['volume_id'] == new_id:
                    each['volume_id'] = old_id
        del self.world.volumes[new_id]
        self.world.point('after migrate_volume_completion')
        return {'save_volume_id': old_id}


class CinderClient(object):
    """nova.volume.cinder.cinderclient()."""

    def __init__(self, world):
        self.world = world
        self.attachments = types.SimpleNamespace(list=self._attachments)
        self.volumes = types.SimpleNamespace(list=self._volumes)

    def _call(self, name):
        self.world.point('before ' + name)
        if self.world.outage is not None:
            raise self.world.outage

    def _attachments(self, detailed=False, search_opts=None):
        self._call('attachments.list')
        assert search_opts['all_tenants']
        return [types.SimpleNamespace(**each)
                for each in self.world.attachments.values()
                if each['volume_id'] == search_opts['volume_id']]

    def _volumes(self, search_opts=None):
        self._call('volumes.list')
        assert search_opts['all_tenants']
        return [
            types.SimpleNamespace(
                id=each['id'],
                attachments=[{'server_id': attachment['instance']}
                             for attachment in
                             self.world.attachments.values()
                             if attachment['volume_id'] == each['id']])
            for each in self.world.volumes.values()
            if each['migration_status'] == search_opts['migration_status']]


class Bdm(object):
    """objects.BlockDeviceMapping: what was read, until it is saved."""

    def __init__(self, world):
        self._world = world
        self._values = copy.deepcopy(world.bdm)

    def __getattr__(self, name):
        return self._values[name]

    def __getitem__(self, name):
        return self._values[name]

    def update(self, values):
        self._values.update(values)

    def save(self):
        self._world.point('before bdm.save')
        self._world.bdm = copy.deepcopy(self._values)
        self._world.point('after bdm.save')


def report(state, guest_on, **more):
    found = {'schema': 1, 'job': 'job1', 'state': state, 'guest_on': guest_on,
             'engine': 'handover', 'phase': state, 'running': False,
             'source': OLD_IMAGE, 'target': NEW_IMAGE, 'checks': [],
             'seconds': {'total': 2.0, 'pause': 0.5}, 'error': None}
    found.update(more)
    if state != 'done' and found['error'] is None:
        found['error'] = {'schema': 1, 'code': 'failed',
                          'message': 'pool ssd is full',
                          'advice': 'Make room.'}
    return found


def running(phase, guest_on, done=0, total=0):
    return {'schema': 1, 'job': 'job1', 'state': 'open', 'running': True,
            'phase': phase, 'guest_on': guest_on, 'engine': 'handover',
            'progress': {'step': phase, 'done_bytes': done,
                         'total_bytes': total, 'bytes_per_s': 1 << 20,
                         'left_s': 1}}


class Library(object):
    """The library and its host: a swap goes as `script` says.

    `script` is what a job shows one look after the other, `recovery` what each
    poolshift_recover() makes of it. What is on the disk follows from that.
    """

    RESULTS = {'open': library.RUNNING, 'done': library.OK,
               'refused': library.REFUSED, 'undone': library.UNDONE,
               'held': library.HELD, 'cancelled': library.CANCELLED}

    def __init__(self, world, script=None, recovery=()):
        self.world = world
        self.script = script or [
            running('prepare', 'source'),
            running('hydrate', 'target', 50, 100),
            report('done', 'target')]
        self.recovery = list(recovery)
        self.requests = []
        self.options = None
        self.version = 'fake'
        self.abi = 1000

    def __call__(self, path):
        return self

    def open_host(self, options):
        self.options = options
        return self

    def _keep(self, labels, shown):
        if shown['state'] != 'refused':
            self.world.jobs['job1'] = dict(shown, labels=labels)
        if shown['guest_on'] == 'target':
            self.world.guest_image = NEW_IMAGE

    def start(self, request):
        """poolshift_job_start()."""
        self.world.point('before job_start')
        request = copy.deepcopy(request)
        self.requests.append(request)
        script = iter(self.script)

        def look():
            shown = next(script)
            if isinstance(shown, Exception):
                raise shown
            self._keep(request['labels'], shown)
            self.world.point('after look at ' + shown['phase'])
            return self.RESULTS[shown['state']], shown

        self._keep(request['labels'], running('prepare', 'source'))
        self.world.point('after job_start')
        return types.SimpleNamespace(look=look, release=lambda: None)

    def jobs(self):
        # Nobody runs what another process began.
        return [dict(job, state='held', running=False)
                if job['state'] == 'open' else job
                for job in self.world.jobs.values()]

    def recover(self, job_id):
        self.world.point('recover')
        job = self.world.jobs[job_id]
        if job['state'] in ('open', 'held'):
            if self.recovery:
                shown = self.recovery.pop(0)
                if isinstance(shown, Exception):
                    raise shown
            elif job['guest_on'] == 'target':
                shown = report('done', 'target')
            else:
                shown = report('undone', 'source')
            self._keep(job['labels'], shown)
        return self.world.jobs[job_id]
