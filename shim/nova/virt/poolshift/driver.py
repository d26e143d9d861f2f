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

"""Nova's libvirt driver, with libpoolshift for swaps between RBD images.

What happens to a disk is decided and done by the library; what Nova and Cinder
have to be told is in settle.py. Here the two are put together::

    connect the new volume            as Nova does
    note the swap                     settle.py: what a restart has to know
    start the job, follow it          library.py
    the guest is on the target        settle.py: the BDM names it at once
    disconnect the old volume         as Nova does
    return, or raise                  the compute manager tells Cinder
    look whether it did               settle.py, when the manager is done
"""

import time

from oslo_log import log as logging
from oslo_utils import excutils
from oslo_utils import units

import nova.conf
from nova import exception
from nova.virt.libvirt import blockinfo
from nova.virt.libvirt import driver
from nova.virt.poolshift import library
from nova.virt.poolshift import options
from nova.virt.poolshift import settle


CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

options.register_opts(CONF)

LOOK_EVERY_S = 0.5
PERCENT_STEP = 10


class LibvirtDriver(driver.LibvirtDriver):

    def __init__(self, virtapi, read_only=False):
        super(LibvirtDriver, self).__init__(virtapi, read_only)
        self._poolshift = library.Loader()
        self._poolshift_missed = False
        self._settler = settle.Settler(self, self._poolshift_host)

    def init_host(self, host):
        super(LibvirtDriver, self).init_host(host)
        self._settler.start(host)

    def _poolshift_host(self):
        conf = CONF.poolshift
        return self._poolshift.host(conf.library, {
            'schema': 1,
            'connect': self._uri(),
            'state_dir': conf.state_dir,
            'overlay_dir': conf.overlay_dir,
            'guardian': conf.guardian,
            'patience_s': conf.patience,
            'log_file': conf.log_file,
            'log_level': conf.log_level,
            'log_journald': True,
        })

    def swap_volume(self, context, old_connection_info, new_connection_info,
                    instance, mountpoint, resize_to):
        def as_nova_does():
            return super(LibvirtDriver, self).swap_volume(
                context, old_connection_info, new_connection_info, instance,
                mountpoint, resize_to)

        why_not = self._why_not_poolshift(context, old_connection_info,
                                          new_connection_info)
        if why_not:
            LOG.info('Not a swap for PoolShift: %s', why_not,
                     instance=instance)
            return as_nova_does()
        try:
            host = self._poolshift_host()
        except library.Unavailable as reason:
            if not self._poolshift_missed:
                self._poolshift_missed = True
                LOG.error('PoolShift cannot be used until nova-compute is '
                          'started again: %s. Nova copies the disks itself. '
                          'See [poolshift] library.', reason)
            return as_nova_does()
        except library.LibraryError as reason:
            # Not Nova's copy: the journals that cannot be read may be about
            # this very disk.
            raise self._failed(reason.message, reason.advice, instance)

        guest = self._host.get_guest(instance)
        disk_dev = mountpoint.rpartition('/')[2]
        if not guest.get_disk(disk_dev):
            raise exception.DiskNotFound(location=disk_dev)

        note = self._settler.note(context, instance, mountpoint,
                                  old_connection_info, new_connection_info,
                                  resize_to)
        if note is None:
            LOG.info('Not a swap for PoolShift: the volume was attached '
                     'before Cinder had attachments', instance=instance)
            return as_nova_does()
        try:
            self._connect_volume(context, new_connection_info, instance)
            try:
                report = self._swap_with_poolshift(
                    context, host, note, old_connection_info,
                    new_connection_info, instance)
                if report['guest_on'] != 'target':
                    raise self._failed(*_reason(report), instance=instance)
            except exception.VolumeRebaseFailed:
                with excutils.save_and_reraise_exception():
                    self._disconnect_volume(context, new_connection_info,
                                            instance)
            self._after_the_pivot(context, note, old_connection_info, instance)
        finally:
            self._settler.after_the_manager(note)

    def _after_the_pivot(self, context, note, old_connection_info, instance):
        """Raises nothing: the manager would undo in Cinder what is done."""
        self._settler.wait_for_cinder(context, note, instance)
        try:
            self._disconnect_volume(context, old_connection_info, instance)
        except Exception:
            LOG.exception('The old volume cannot be disconnected',
                          instance=instance)

    def _why_not_poolshift(self, context, old_connection_info,
                           new_connection_info):
        """One clause, or None when the library is to decide."""
        if not CONF.poolshift.enabled:
            return '[poolshift] enabled is false'
        both = (old_connection_info, new_connection_info)
        if not all(_is_rbd(info) for info in both):
            return 'not both volumes are reached by RBD'
        if any(self._get_volume_encryption(context, info) for info in both):
            return 'a volume is encrypted'
        if not _share_a_monitor(old_connection_info, new_connection_info):
            return 'the volumes are in two clusters'
        return None

    def _swap_with_poolshift(self, context, host, note, old_connection_info,
                             new_connection_info, instance):
        """The report of a swap whose end may be told."""
        request = self._request(old_connection_info, new_connection_info,
                                instance, note.mountpoint)
        request['labels'] = note.labels(context)
        LOG.info('PoolShift swaps %(disk)s: %(source)s -> %(target)s',
                 {'disk': request['disk'], 'source': request['source'],
                  'target': request['target']}, instance=instance)
        try:
            job = host.start(request)
        except library.LibraryError as reason:
            raise self._failed(reason.message, reason.advice, instance)
        report = self._follow(job, note, instance)
        report = self._settler.until_it_may_be_told(host, note, report,
                                                    instance)
        self._log_end(report, instance)
        return report

    def _request(self, old_connection_info, new_connection_info, instance,
                 mountpoint):
        disk_dev = mountpoint.rpartition('/')[2]
        # As Nova itself would reach the new volume, with what [libvirt] rbd_*
        # adds to or puts in place of Cinder's words.
        conf = self._get_volume_config(instance, new_connection_info, {
            'dev': disk_dev,
            'bus': blockinfo.get_disk_bus_for_disk_dev(
                CONF.libvirt.virt_type, disk_dev),
            'type': 'disk'})
        access = {
            'mon_hosts': [_address(host, port) for host, port in
                          zip(conf.source_hosts, conf.source_ports)],
            'user': conf.auth_username,
            'secret_uuid': conf.auth_secret_uuid,
        }
        return {
            'schema': 1,
            'domain': instance.uuid,
            'disk': disk_dev,
            'source': old_connection_info['data']['name'],
            'target': conf.source_name,
            'target_access': {key: value for key, value in access.items()
                              if value},
            'engine': CONF.poolshift.engine,
            'hydrate': CONF.poolshift.hydrate,
            'max_pause_ms': int(CONF.poolshift.max_pause * 1000),
            'bandwidth_bytes_per_s': CONF.poolshift.bandwidth * units.Mi,
            'source_after': CONF.poolshift.source,
        }

    def _follow(self, job, note, instance):
        """Waits until the job has ended; gives its report."""
        progress = _Progress(instance)
        bdm_saver = self._settler.bdm_saver(note)
        try:
            while True:
                result, status = job.look()
                if status.get('job'):
                    note.job = status['job']
                if status.get('guest_on') == 'target':
                    bdm_saver()
                if result != library.RUNNING:
                    return status
                progress.say(status)
                time.sleep(LOOK_EVERY_S)
        except Exception as reason:
            # Not the end of the job. Nothing is known, so nothing may be told.
            LOG.exception('PoolShift job %s cannot be followed', note.job,
                          instance=instance)
            return {'job': note.job, 'state': 'held', 'guest_on': 'unknown',
                    'engine': '', 'error': {'message': str(reason),
                                            'advice': ''}}
        finally:
            job.release()

    def _log_end(self, report, instance):
        if report['state'] == 'done':
            seconds = report.get('seconds') or {}
            LOG.info('PoolShift job %(job)s: %(source)s -> %(target)s done in '
                     '%(total).1f s by %(engine)s; the guest was paused for '
                     '%(pause).1f s',
                     {'job': report['job'], 'source': report.get('source'),
                      'target': report.get('target'),
                      'engine': report.get('engine'),
                      'total': seconds.get('total', 0),
                      'pause': seconds.get('pause', 0)}, instance=instance)
        elif report['guest_on'] == 'target':
            message, advice = _reason(report)
            LOG.warning('PoolShift job %(job)s: the guest is on the target, '
                        'but something is left to do: %(message)s. %(advice)s '
                        "nova-compute goes on trying; so does 'poolshift "
                        "recover %(job)s'.",
                        {'job': report['job'], 'message': message,
                         'advice': advice}, instance=instance)

    def _failed(self, message, advice, instance):
        LOG.error('PoolShift: %(message)s. %(advice)s',
                  {'message': message, 'advice': advice}, instance=instance)
        return exception.VolumeRebaseFailed(reason=message)


class _Progress(object):
    """A line in the log for each ten per cent of a phase."""

    def __init__(self, instance):
        self._instance = instance
        self._phase = None
        self._said = 0

    def say(self, status):
        if status.get('phase') != self._phase:
            self._phase = status.get('phase')
            self._said = 0
        progress = status.get('progress') or {}
        total = progress.get('total_bytes') or 0
        if not total:
            return
        percent = 100 * progress.get('done_bytes', 0) // total
        if percent < self._said + PERCENT_STEP:
            return
        self._said = percent - percent % PERCENT_STEP
        LOG.info('PoolShift job %(job)s: %(phase)s %(percent)d %%, '
                 '%(done)d of %(total)d MiB, %(speed)d MiB/s',
                 {'job': status.get('job'), 'phase': self._phase,
                  'percent': percent,
                  'done': progress.get('done_bytes', 0) // units.Mi,
                  'total': total // units.Mi,
                  'speed': progress.get('bytes_per_s', 0) // units.Mi},
                 instance=self._instance)


def _address(host, port):
    return ('[%s]:%s' if ':' in host else '%s:%s') % (host.strip('[]'), port)


def _reason(report):
    error = report.get('error') or {}
    return error.get('message', 'no reason was given'), error.get('advice', '')


def _is_rbd(connection_info):
    try:
        return connection_info['driver_volume_type'] == 'rbd'
    except (KeyError, TypeError):
        return False


def _monitors(connection_info):
    data = connection_info['data']
    return {_address(host, port) for host, port in
            zip(data.get('hosts') or [], data.get('ports') or [])}


def _share_a_monitor(one, other):
    """Whether two volumes may be in one cluster: the library makes sure."""
    one, other = _monitors(one), _monitors(other)
    return not one or not other or bool(one & other)
