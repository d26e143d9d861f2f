# Before anything else, as nova-compute does it.
import nova.monkey_patch  # noqa: F401
