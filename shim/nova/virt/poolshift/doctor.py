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

"""poolshift-nova-doctor: what 'poolshift doctor' has to ask Nova and Cinder.

Reads what poolshift_disks() gives from stdin and writes {"schema": 1,
"findings": [...]}; changes nothing. Cinder is asked as nova-compute does it,
with the options of [cinder].

Cinder's RBD driver (seen in 21.3.1) copies an image by itself and puts the
source into the trash, also under a running guest, when a volume is retyped
between types that differ in nothing but volume_backend_name. Nova is not
asked, so PoolShift cannot prevent it: such types are found here beforehand,
and guests that it has happened to afterwards.
"""

import itertools
import json
import os
import sys

from cinderclient import exceptions as cinder_exception
from oslo_config import cfg

import nova.conf
from nova import config
from nova import context as nova_context
from nova.virt.poolshift import options
from nova.volume import cinder


CONF = nova.conf.CONF
options.register_opts(CONF)

DRIVER = 'poolshift.LibvirtDriver'
MICROVERSION = '3.27'
# Extra specs whose difference does not keep Cinder's driver from it.
BACKEND_SPECS = {'volume_backend_name', 'RESKEY:availability_zones'}
# What a volume may show that no migration is about.
AT_REST = (None, '', 'none', 'success', 'error')


def finding(name, result, found, do=''):
    return {'name': name, 'result': result, 'found': found, 'do': do}


def find_driver():
    if CONF.compute_driver == DRIVER:
        return finding('nova_driver', 'pass', 'nova-compute loads %s' % DRIVER)
    return finding(
        'nova_driver', 'warn',
        "nova-compute loads '%s', so Nova's own copy does the swaps"
        % CONF.compute_driver,
        "Set 'compute_driver = %s' in nova.conf and restart nova-compute."
        % DRIVER)


def conf_files():
    """All that oslo.config has read, in its order."""
    files = list(CONF.config_file or [])
    for folder in CONF.config_dir or []:
        files += sorted(os.path.join(folder, name)
                        for name in os.listdir(folder)
                        if name.endswith('.conf'))
    return files


def unknown_options():
    """Names in [poolshift] that are no options, which oslo.config ignores."""
    known = {each.dest for each in options.swap_opts + options.host_opts}
    unknown = set()
    for path in conf_files():
        sections = {}
        cfg.ConfigParser(path, sections).parse()
        names = {name.replace('-', '_')
                 for name in sections.get(options.poolshift_group.name, {})}
        unknown |= names - known
    return sorted(unknown)


def bad_options():
    """What is wrong with the values in [poolshift], one sentence each."""
    bad = []
    for each in options.swap_opts + options.host_opts:
        try:
            value = getattr(CONF.poolshift, each.dest)
        except ValueError as reason:
            bad.append(str(reason))
            continue
        if (each.dest in ('state_dir', 'overlay_dir', 'guardian') and
                value and not os.path.isabs(value)):
            bad.append("'%s' is '%s', which is no absolute path"
                       % (each.dest, value))
    return bad


def find_options():
    wrong = bad_options()
    wrong += ["'%s' is no option" % name for name in unknown_options()]
    if not wrong:
        return finding('nova_options', 'pass',
                       'the options of [poolshift] are right')
    return finding(
        'nova_options', 'fail' if bad_options() else 'warn',
        'in [poolshift] of nova.conf: %s' % '; '.join(wrong),
        "Correct them, then restart nova-compute; shim/README.md and "
        "'oslo-config-generator --namespace nova.virt.poolshift' have the "
        'options.')


class Backends(object):
    """Cinder's RBD backends, by what their drivers report."""

    def __init__(self, client):
        self._capabilities = {pool.name: vars(pool) for pool in
                              client.pools.list(detailed=True)}

    def _is_rbd(self, capabilities):
        return capabilities.get('storage_protocol') == 'ceph'

    def are_rbd(self, backend_name):
        """Whether a type of that volume_backend_name may be in RBD."""
        named = [each for each in self._capabilities.values()
                 if each.get('volume_backend_name') == backend_name]
        return not named or any(self._is_rbd(each) for each in named)

    def ceph_pool(self, host):
        """Of a volume's os-vol-host-attr:host; None when it is not known.

        The driver's location_info is CLUSTER:CONF:FSID:USER:POOL.
        """
        capabilities = self._capabilities.get(host, {})
        parts = capabilities.get('location_info', '').split(':')
        if not self._is_rbd(capabilities) or len(parts) != 5:
            return None
        return parts[4]


def loses_data(one, other):
    """Whether Cinder leaves a retype between two types to its RBD driver."""
    specs = one['extra_specs'], other['extra_specs']
    names = [each.get('volume_backend_name') for each in specs]
    return (names[0] != names[1] and
            not (set(specs[0]) | set(specs[1])) - BACKEND_SPECS and
            not any(each['qos'] or each['encrypted'] for each in (one, other)))


def volume_types(client):
    encrypted = {each.volume_type_id
                 for each in client.volume_encryption_types.list()}
    return [{'name': each.name,
             'extra_specs': each.extra_specs,
             'qos': getattr(each, 'qos_specs_id', None),
             'encrypted': each.id in encrypted}
            for each in client.volume_types.list(is_public=None)]


def find_types(client, backends):
    rbd = [each for each in volume_types(client) if backends.are_rbd(
        each['extra_specs'].get('volume_backend_name'))]
    names = sorted({each['name']
                    for pair in itertools.combinations(rbd, 2)
                    if loses_data(*pair) for each in pair})
    if not names:
        return finding('cinder_types', 'pass',
                       'each retype between the volume types comes to Nova')
    return finding(
        'cinder_types', 'fail',
        'the types %s differ in nothing but volume_backend_name: a retype '
        'from one to another puts the image of an attached volume into the '
        'trash under its guest' % ', '.join("'%s'" % name for name in names),
        "Do not retype attached volumes between them; take types with one "
        "more extra spec ('openstack volume type create --property "
        "volume_backend_name=NAME --property tier:class=NAME TYPE'). Cinder "
        'refuses to change a type in use.')


def find_image(client, backends, disk):
    """A finding when a disk is not on the image that Cinder names."""
    try:
        volume = client.volumes.get(disk['serial'])
    except cinder_exception.NotFound:
        return None
    pool = backends.ceph_pool(getattr(volume, 'os-vol-host-attr:host', None))
    migration = getattr(volume, 'migration_status', None)
    if volume.status != 'in-use' or migration not in AT_REST or pool is None:
        return None
    name = getattr(volume, 'os-vol-mig-status-attr:name_id', None) or volume.id
    source = disk['source']
    on = '/'.join(filter(None, (source['pool'], source['namespace'],
                                source['image'])))
    if ((source['pool'], source['namespace']) == (pool, '') and
            name in source['image']):
        return None
    return finding(
        'cinder_image', 'fail',
        "disk '%s' of running domain '%s' is %s, but Cinder has volume %s in "
        "pool '%s' with the name of %s: after a restart the guest would see "
        'other data' % (disk['disk'], disk['domain'], on,
                        volume.id, pool, name),
        "Do not stop the guest. 'poolshift rescue --domain %s --disk %s --to "
        "%s/volume-%s' brings it there." % (disk['domain'], disk['disk'], pool,
                                            name))


def findings(disks):
    found = [find_driver(), find_options()]
    try:
        client = cinder.cinderclient(nova_context.get_admin_context(),
                                     MICROVERSION)
        backends = Backends(client)
        found.append(find_types(client, backends))
        found += filter(None, (find_image(client, backends, disk)
                               for disk in disks
                               if disk['active'] and disk['serial']))
    except Exception as reason:
        found.append(finding(
            'cinder', 'fail', 'Cinder cannot be asked: %s' % reason,
            'The user of [cinder] in nova.conf must be able to reach it, with '
            'role admin.'))
    return found


def main():
    config.parse_args(['poolshift-nova-doctor'] + sys.argv[1:],
                      configure_db=False, init_rpc=False)
    try:
        disks = json.load(sys.stdin)['disks']
    except (ValueError, KeyError, TypeError) as reason:
        print('poolshift-nova-doctor: stdin has no {"schema": 1, "disks": '
              "[...]} (%s). Run 'poolshift doctor', which runs this."
              % reason, file=sys.stderr)
        return 2
    json.dump({'schema': 1, 'findings': findings(disks)}, sys.stdout)
    return 0


if __name__ == '__main__':
    sys.exit(main())
