"""Kills nova-compute at a call, as no signal from outside can.

Python loads it into nova-compute as `sitecustomize`. The file that the
variable POOLSHIFT_DIE_AT names, read when nova-compute starts, says where:
"before MODULE:CLASS.METHOD", or "after" it has returned. Without the file
nothing is done.
"""

import os
import signal

import wrapt


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(when, call):
    module, _, name = call.partition(':')

    def before(wrapped, instance, args, kwargs):
        die()

    def after(wrapped, instance, args, kwargs):
        wrapped(*args, **kwargs)
        die()

    @wrapt.when_imported(module)
    def wrap(module):
        wrapt.wrap_function_wrapper(
            module, name, {'before': before, 'after': after}[when])


def main():
    try:
        with open(os.environ['POOLSHIFT_DIE_AT']) as file:
            when, call = file.read().split()
    except (KeyError, FileNotFoundError):
        return
    arm(when, call)


main()
