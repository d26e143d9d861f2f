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

import io
import json
import os
from types import SimpleNamespace
from unittest import mock

from cinderclient import exceptions as cinder_exception
import fixtures
from oslo_config import cfg

from nova import test
from nova.virt.poolshift import doctor
from nova.virt.poolshift import options

VOLUME = '6d1b2f5c-0000-4000-8000-000000000001'
OTHER = '6d1b2f5c-0000-4000-8000-000000000002'


def pool(name, protocol='ceph'):
    return SimpleNamespace(
        name='cloud@%s#%s' % (name, name), volume_backend_name=name,
        storage_protocol=protocol,
        location_info='ceph:/etc/ceph/ceph.conf:fsid:cinder:volumes-' + name)


def volume_type(name, qos=None, **extra_specs):
    return SimpleNamespace(id='id-' + name, name=name, qos_specs_id=qos,
                           extra_specs=extra_specs)


def volume(**changes):
    return SimpleNamespace(**dict({
        'id': VOLUME, 'status': 'in-use', 'migration_status': None,
        'os-vol-host-attr:host': 'cloud@hdd#hdd',
        'os-vol-mig-status-attr:name_id': None}, **changes))


def disk(image='volumes-hdd/volume-' + VOLUME, **changes):
    pool, _, name = image.partition('/')
    return dict({'domain': 'instance-1', 'domain_uuid': 'u', 'disk': 'vdb',
                 'active': True, 'openstack': True, 'serial': VOLUME,
                 'source': {'pool': pool, 'namespace': '', 'image': name}},
                **changes)


class DoctorTestCase(test.NoDBTestCase):

    def setUp(self):
        super(DoctorTestCase, self).setUp()
        self.flags(compute_driver='poolshift.LibvirtDriver')
        self.client = mock.Mock()
        self.client.pools.list.return_value = [pool('hdd'), pool('ssd'),
                                               pool('lvm', 'iSCSI')]
        self.client.volume_types.list.return_value = []
        self.client.volume_encryption_types.list.return_value = []
        self.client.volumes.get.return_value = volume()
        self.stub_out('nova.volume.cinder.cinderclient',
                      lambda *args: self.client)

    def found(self, *disks):
        return {each['name']: each for each in doctor.findings(disks)}

    def assert_types(self, result, *types):
        self.client.volume_types.list.return_value = list(types)
        self.assertEqual(result, self.found()['cinder_types']['result'])

    def test_all_is_well(self):
        found = self.found(disk())
        self.assertEqual({'nova_driver': 'pass', 'nova_options': 'pass',
                          'cinder_types': 'pass'},
                         {name: each['result']
                          for name, each in found.items()})

    def test_another_driver(self):
        self.flags(compute_driver='libvirt.LibvirtDriver')
        found = self.found()['nova_driver']
        self.assertEqual('warn', found['result'])
        self.assertIn('libvirt.LibvirtDriver', found['found'])
        self.assertIn('poolshift.LibvirtDriver', found['do'])

    def options_of(self, text):
        """The finding for a nova.conf with these lines in [poolshift]."""
        folder = self.useFixture(fixtures.TempDir()).path
        path = os.path.join(folder, 'nova.conf')
        with open(path, 'w') as conf:
            conf.write('[poolshift]\n%s\n' % text)
        self.conf = cfg.ConfigOpts()
        options.register_opts(self.conf)
        self.conf.register_opt(cfg.StrOpt('compute_driver', default=''))
        self.conf(['--config-file', path], project='nova')
        self.stub_out('nova.virt.poolshift.doctor.CONF', self.conf)
        return doctor.find_options()

    def test_right_options(self):
        found = self.options_of('engine = mirror\nmax_pause = 2.5')
        self.assertEqual('pass', found['result'])

    def test_unknown_options(self):
        found = self.options_of('engine = mirror\nengin = auto')
        self.assertEqual('warn', found['result'])
        self.assertIn("'engin' is no option", found['found'])
        self.assertNotIn("'engine'", found['found'])

    def test_bad_options(self):
        for line, word in (('engine = none', 'engine'),
                           ('max_pause = 90', 'max_pause'),
                           ('bandwidth = 5M', 'bandwidth'),
                           ('state_dir = var/lib', "'state_dir'")):
            found = self.options_of(line)
            self.assertEqual('fail', found['result'], line)
            self.assertIn(word, found['found'])

    def test_types_that_differ_only_in_the_backend(self):
        hdd = volume_type('a', volume_backend_name='hdd')
        ssd = volume_type('b', volume_backend_name='ssd')
        self.assert_types('fail', hdd, ssd)
        found = self.found()['cinder_types']['found']
        self.assertIn("'a'", found)
        self.assertIn("'b'", found)
        self.assert_types('fail', hdd, volume_type(
            'b', volume_backend_name='ssd',
            **{'RESKEY:availability_zones': 'one'}))
        self.assert_types('fail', hdd, volume_type('none'))

    def test_types_whose_retype_comes_to_nova(self):
        hdd = volume_type('a', volume_backend_name='hdd')
        self.assert_types('pass', hdd, volume_type(
            'b', volume_backend_name='ssd', **{'tier:class': 'ssd'}))
        self.assert_types('pass', hdd, volume_type(
            'b', qos='q', volume_backend_name='ssd'))
        self.assert_types('pass', hdd, volume_type(
            'b', volume_backend_name='hdd'))
        self.assert_types('pass', hdd, volume_type(
            'b', volume_backend_name='lvm'))

    def test_encrypted_types(self):
        self.client.volume_encryption_types.list.return_value = [
            SimpleNamespace(volume_type_id='id-b')]
        self.assert_types(
            'pass', volume_type('a', volume_backend_name='hdd'),
            volume_type('b', volume_backend_name='ssd'))

    def test_guest_on_another_image(self):
        for on in ('volumes-ssd/volume-' + VOLUME,
                   'volumes-hdd/volume-' + OTHER):
            found = self.found(disk(image=on))['cinder_image']
            self.assertEqual('fail', found['result'])
            self.assertIn(on, found['found'])
            self.assertIn("--to volumes-hdd/volume-%s'" % VOLUME, found['do'])

    def test_guest_on_the_image_of_a_migrated_volume(self):
        self.client.volumes.get.return_value = volume(
            **{'os-vol-mig-status-attr:name_id': OTHER,
               'migration_status': 'success'})
        self.assertNotIn('cinder_image', self.found(
            disk(image='volumes-hdd/volume-' + OTHER)))
        self.assertIn('cinder_image', self.found(disk()))

    def test_nothing_is_said_of_volumes_on_their_way(self):
        elsewhere = disk(image='volumes-ssd/volume-' + VOLUME)
        for on_its_way in (volume(status='retyping'),
                           volume(migration_status='migrating'),
                           volume(**{'os-vol-host-attr:host': 'gone'})):
            self.client.volumes.get.return_value = on_its_way
            self.assertNotIn('cinder_image', self.found(elsewhere))

    def test_disks_that_are_not_cinders(self):
        self.client.volumes.get.side_effect = cinder_exception.NotFound(404)
        self.assertNotIn('cinder_image', self.found(disk(serial='x')))
        self.client.volumes.get.reset_mock()
        self.assertNotIn('cinder_image', self.found(disk(serial='')))
        self.assertNotIn('cinder_image', self.found(disk(active=False)))
        self.client.volumes.get.assert_not_called()

    def test_cinder_does_not_answer(self):
        self.client.pools.list.side_effect = cinder_exception.ConnectionError(
            'no route')
        found = self.found()['cinder']
        self.assertEqual('fail', found['result'])
        self.assertIn('no route', found['found'])

    def test_program_without_disks(self):
        for text in ('', '[]', '{"schema": 1}'):
            said = io.StringIO()
            with mock.patch('sys.stdin', io.StringIO(text)), \
                    mock.patch('sys.stderr', said), \
                    mock.patch('nova.config.parse_args'):
                self.assertEqual(2, doctor.main())
            self.assertIn('stdin has no', said.getvalue())

    def test_program(self):
        with mock.patch('sys.stdin', io.StringIO(json.dumps(
                {'schema': 1, 'disks': [disk(serial='')]}))), \
                mock.patch('sys.stdout', new_callable=io.StringIO) as out, \
                mock.patch('nova.config.parse_args') as parse:
            self.assertEqual(0, doctor.main())
        self.assertEqual(1, parse.call_count)
        answer = json.loads(out.getvalue())
        self.assertEqual(1, answer['schema'])
        self.assertEqual(['nova_driver', 'nova_options', 'cinder_types'],
                         [each['name'] for each in answer['findings']])
