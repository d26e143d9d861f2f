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

import configparser
import io
import os
from unittest import mock

from oslo_config import cfg
from oslo_config import generator
import pkg_resources

from nova import test
from nova.virt.poolshift import options

SETUP_CFG = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..',
                         'setup.cfg')


class OptionsTestCase(test.NoDBTestCase):

    def test_entry_point(self):
        setup = configparser.ConfigParser()
        setup.read(SETUP_CFG)
        found = pkg_resources.EntryPoint.parse(
            setup['options.entry_points']['oslo.config.opts'].strip())
        self.assertEqual('nova.virt.poolshift', found.name)
        self.assertIs(options.list_opts, found.resolve())

    def test_only_inside_the_namespace(self):
        # nova/__init__.py and nova/virt/__init__.py are Nova's.
        setup = configparser.ConfigParser()
        setup.read(SETUP_CFG)
        self.assertEqual('nova.virt.poolshift',
                         setup['options']['packages'].strip())

    def test_sample_file(self):
        conf = cfg.ConfigOpts()
        generator.register_cli_opts(conf)
        out = io.StringIO()
        with mock.patch.object(
                generator, '_list_opts', return_value=[
                    ('nova.virt.poolshift', options.list_opts())]):
            conf(['--namespace', 'nova.virt.poolshift'])
            generator.generate(conf, out)
        text = out.getvalue()
        self.assertIn('[poolshift]', text)
        for name in ('enabled', 'library', 'engine', 'hydrate', 'bandwidth',
                     'max_pause', 'source', 'state_dir', 'overlay_dir',
                     'guardian', 'patience', 'log_file', 'log_level'):
            self.assertIn('\n#%s =' % name, text)

    def test_each_option_is_described(self):
        for option in options.list_opts()[0][1]:
            self.assertLess(40, len(option.help), option.name)

    def test_bounds_are_the_librarys(self):
        conf = cfg.ConfigOpts()
        options.register_opts(conf)
        conf([])
        for name, value in (('max_pause', 0.4), ('max_pause', 61),
                            ('patience', 0), ('bandwidth', -1),
                            ('engine', 'magic'), ('source', 'delete')):
            self.assertRaises(ValueError, conf.set_override, name, value,
                              group='poolshift')
