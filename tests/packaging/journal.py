#!/usr/bin/python3
"""Prints the journal of a job in one phase. usage: journal.py JOB PHASE [KEY=JSON]...: what its record has otherwise"""
import json
import sys


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


job, phase = sys.argv[1:3]
access = {"mon_hosts": [], "user": "", "secret_uuid": "", "secret_usage": "", "conf_path": ""}
record = {
    "schema": 1, "job": job, "phase": phase, "resume_phase": "retire", "guest_on": "target", "started_wall_ms": 1,
    "changed_wall_ms": 2, "domain_uuid": "6f1d0c3a-2f0e-4b8e-9a53-0d8c3c2f7a11", "domain_name": "web", "disk": job,
    "engine": "mirror", "engine_reason": "asked for", "bandwidth_bytes_per_s": 0, "source_after": "keep",
    "create_target": False, "source_watcher": "w", "source_size_bytes": 1, "source_used_bytes": 1,
    "source_unmaps": True, "checks": [], "copy_started": False, "convergence": "none needed", "copied_bytes": 0,
    "target_used_bytes": 0, "sparsified": False, "cancelled": False, "notes": [],
    "source": {"pool": "hdd", "namespace": "", "image": "a"}, "target": {"pool": "ssd", "namespace": "", "image": "a"},
    "source_access": access, "target_access": access,
    "target_spec": {"size_bytes": 1, "features": 61, "order": 22, "stripe_unit_bytes": 0, "stripe_count": 0,
                    "data_pool": "", "metadata": {}},
    "seconds": {"validate": 0, "prepare": 0, "copy": 0, "pivot": 0, "retire": 0, "undo": 0, "pause": 0},
    "limit_to_restore": None, "error": None}
record.update((key, json.loads(value)) for key, value in (pair.split("=", 1) for pair in sys.argv[3:]))
text = json.dumps(record, separators=(",", ":"))
print(f"{crc32c(text.encode()):08x} {len(text)} {text}")
