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

"""The options of the group [poolshift] in nova.conf."""

from oslo_config import cfg


poolshift_group = cfg.OptGroup(
    'poolshift',
    title='PoolShift',
    help="""
PoolShift moves the disk of a running instance from one Ceph pool to another of
the same cluster when Cinder retypes or migrates its volume. It is used when
``compute_driver`` is ``poolshift.LibvirtDriver``.
""")

swap_opts = [
    cfg.BoolOpt(
        'enabled',
        default=True,
        help="""
Whether new swaps of RBD volumes are done by PoolShift.

When false, or when the library cannot be loaded, Nova's own block copy does
them. What PoolShift had begun before is brought to its end in any case.

Related options:

* ``library``
"""),
    cfg.StrOpt(
        'engine',
        default='auto',
        choices=[
            ('auto', 'mirror for a small disk and where a handover is not '
                     'possible, else handover'),
            ('mirror', "QEMU's block copy, followed until it can be pivoted; "
                       'the guest is never paused'),
            ('handover', 'one short pause, whatever the size of the disk; '
                         'the data follows from OSD to OSD. Swaps that '
                         'cannot be done so are refused'),
        ],
        help="""
How a disk is moved. poolshift(8) says when to take which.

Related options:

* ``hydrate``, ``max_pause``: of ``handover``
"""),
    cfg.StrOpt(
        'hydrate',
        default='auto',
        choices=[
            ('auto', 'offload where source and target have the same layout '
                     'and are not nearly empty, else flatten'),
            ('offload', 'the OSDs copy among themselves'),
            ('flatten', "librbd copies, inside the guest's QEMU"),
        ],
        help="""
How the target of a handover gets its data.

Related options:

* ``engine``
"""),
    cfg.IntOpt(
        'bandwidth',
        default=0,
        min=0,
        help="""
The most that one swap copies, in MiB/s; 0 is no limit.

``poolshift set JOB --bandwidth`` changes it for a swap that runs. A handover
that has to ``flatten`` cannot be limited: with ``engine = auto`` and a limit,
``mirror`` is taken there.

Related options:

* ``engine``, ``hydrate``
"""),
    cfg.FloatOpt(
        'max_pause',
        default=3.0,
        min=0.5,
        max=60.0,
        help="""
When a handover has had the guest suspended for so many seconds, it is taken
back and the swap fails with the guest where it was.

Related options:

* ``engine``
* ``guardian``: the program that does so when nova-compute cannot
"""),
    cfg.StrOpt(
        'source',
        default='keep',
        choices=[
            ('keep', 'the image is left to Cinder'),
            ('trash', 'the image goes to the RBD trash'),
        ],
        help="""
What PoolShift does with the source's image after a swap.

Cinder deletes the old volume itself, so this must be ``keep`` wherever Cinder
manages the images.
"""),
]

host_opts = [
    cfg.StrOpt(
        'library',
        default='libpoolshift.so.1',
        help="""
The library: a soname that the dynamic linker finds, or an absolute path.
"""),
    cfg.StrOpt(
        'state_dir',
        default='/var/lib/poolshift',
        help="""
Absolute path of the folder of the journals, and of what Nova and Cinder have
not been told yet (in its ``nova``).

It must outlive a reboot of the node, be used by this nova-compute alone, and
belong to the user that nova-compute runs as. ``poolshift status --state-dir``
shows what is going on in it.

Related options:

* ``overlay_dir``
"""),
    cfg.StrOpt(
        'overlay_dir',
        default='',
        help="""
Absolute path of the folder for the file that is on a disk while a handover
pauses its guest. QEMU's user must be able to pass through it. Empty:
``overlays`` in ``state_dir``.

Related options:

* ``state_dir``
"""),
    cfg.StrOpt(
        'guardian',
        default='',
        help="""
The program that ends the pause of a handover when nova-compute does not.
Empty: where PoolShift is installed.

Related options:

* ``max_pause``
"""),
    cfg.IntOpt(
        'patience',
        default=60,
        min=1,
        max=86400,
        help="""
For how many seconds libvirtd or the cluster may be away before a swap is held.
A swap that is held is tried again.
"""),
    cfg.StrOpt(
        'log_file',
        default='',
        help="""
File that the library's own log is appended to. Empty: none. Progress and
results are in nova-compute's log in any case, and what happens to a job in
systemd's journal.

Related options:

* ``log_level``
"""),
    cfg.StrOpt(
        'log_level',
        default='info',
        choices=['trace', 'debug', 'info', 'warning', 'error', 'critical',
                 'off'],
        help="""
How much the library logs: in ``log_file``, and in systemd's journal where
nova-compute can reach it (poolshift(8), LOGGING).

Related options:

* ``log_file``
"""),
]


def register_opts(conf):
    conf.register_group(poolshift_group)
    conf.register_opts(swap_opts + host_opts, group=poolshift_group)


def list_opts():
    """For oslo-config-generator: the entry point oslo.config.opts."""
    return [(poolshift_group, swap_opts + host_opts)]
