/* libpoolshift: moves the disk of a running virtual machine from one Ceph pool to another of the same cluster.
 *
 * Conventions of this binding:
 *
 *  1. Text that goes in or comes out is UTF-8 JSON, at most POOLSHIFT_MAX_JSON_BYTES, with "schema": 1 at its top.
 *     Unknown keys are errors on the way in; callers must accept new keys on the way out. Keys carry their unit.
 *  2. Functions that can fail return 0 for success and one of enum poolshift_result otherwise. `error`, where a
 *     function has it, may be NULL; after a failure it points to a JSON object
 *     {"schema":1,"code":"...","message":"...","advice":"..."}, after success to NULL.
 *     Errors are never kept per thread: under eventlet two calls of one caller may land on two OS threads.
 *     Texts (`report`, `status`, `list`) may be asked for with NULL when they are not wanted; handles may not.
 *  3. Whatever a function returns through a `char **` belongs to the caller, who gives it to poolshift_free().
 *     `const char *` results belong to the library and live as long as it.
 *  4. Handles may be used from several threads at once, except that nobody may use a handle while or after it is
 *     closed or released.
 *  5. There are no callbacks. A caller waits with a timeout (poolshift_job_wait) or on a file descriptor
 *     (poolshift_job_fd).
 *  6. A job outlives its view: releasing a handle, closing the host or killing the caller never cancels a swap. What
 *     was not finished is in the journal, and poolshift_recover() goes on with it.
 *  7. No C++ exception leaves the library. It installs no signal handler and no libvirt event loop, and never writes
 *     to stdout or stderr unless the options ask for a log there.
 *  8. fork(): a child must not use handles that its parent opened.
 */
#ifndef POOLSHIFT_H
#define POOLSHIFT_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define POOLSHIFT_API __attribute__((visibility("default")))
#else
#define POOLSHIFT_API
#endif

/* Compile-time version of this header; poolshift_abi_version() gives the library's. A library of the same major number
 * and an equal or higher minor number serves this header's callers. */
#define POOLSHIFT_ABI_MAJOR 1
#define POOLSHIFT_ABI_MINOR 0

#define POOLSHIFT_MAX_JSON_BYTES (1024 * 1024)

/* Also the exit codes of poolshift(8). Never renumbered. */
enum poolshift_result {
  POOLSHIFT_OK = 0,        /* done */
  POOLSHIFT_INTERNAL = 1,  /* a bug in PoolShift, or no memory: report it */
  POOLSHIFT_USAGE = 2,     /* a malformed request, option or argument; nothing was looked at */
  POOLSHIFT_REFUSED = 3,   /* refused by validation, or no such job; nothing was changed */
  POOLSHIFT_UNDONE = 4,    /* failed and undone; the guest is on the source */
  POOLSHIFT_HELD = 5,      /* held: an operator is needed, then poolshift_recover() */
  POOLSHIFT_CANCELLED = 6, /* cancelled and undone; the guest is on the source */
  POOLSHIFT_RUNNING = 7    /* poolshift_job_wait: the time is up and the job still runs. Not an error. */
};

typedef struct poolshift_host poolshift_host; /* one libvirtd and one state folder */
typedef struct poolshift_job poolshift_job;   /* a view of one swap */

/* The library's version, "MAJOR.MINOR.PATCH". Never fails, never blocks, any thread. Since 1.0. */
POOLSHIFT_API const char* poolshift_version(void);

/* The library's ABI: major * 1000 + minor. Never fails, never blocks, any thread. Since 1.0. */
POOLSHIFT_API unsigned poolshift_abi_version(void);

/* What this library can do, as JSON: {"schema":1,"version":..,"abi":..,"engines":[..],"request_schema":[1],...}.
 * Never blocks. NULL only without memory. Since 1.0. */
POOLSHIFT_API char* poolshift_capabilities(void);

/* Frees a text that the library returned; NULL is allowed. Since 1.0. */
POOLSHIFT_API void poolshift_free(void* text);

/* Opens a host. `options` is JSON or NULL for the defaults:
 *   {"schema":1, "connect":"qemu:///system", "state_dir":"/var/lib/poolshift", "ceph_conf":"", "log_file":"",
 *    "log_level":"info", "log_journald":false, "patience_s":60, "owns_process":false, "overlay_dir":"", "guardian":""}
 * "ceph_conf" overrides the cluster access in the domains' XML; "log_file" "-" is stderr, "" none; "log_journald" is
 * for a log in systemd's journal, with fields (poolshift(8), LOGGING), where there is one; "patience_s" is
 * how long libvirtd or the cluster may be away before a job is held; "owns_process" says that nobody else in this
 * process uses libvirt, whose errors may then be kept off stderr; "overlay_dir" is where a handover puts the file that
 * is on the disk during the pause (default: the state folder's "overlays"; QEMU's user must be able to pass through
 * it), and "guardian" the program that ends a pause when this process does not (default: where it is installed). Makes
 * the state folder when it is missing; contacts neither libvirtd nor the cluster (they are contacted when first
 * needed). Blocks for local file operations only. Any thread. Errors: USAGE (options), HELD (state folder not usable).
 * Since 1.0. */
POOLSHIFT_API int poolshift_host_open(const char* options, poolshift_host** host, char** error);

/* Closes a host. Jobs that this host runs are left to poolshift_recover(): their work in QEMU goes on, nothing follows
 * it. May block up to a few seconds, until each job has come to a point where it can be left. All job handles of this
 * host must have been released. NULL is allowed. Since 1.0. */
POOLSHIFT_API void poolshift_host_close(poolshift_host* host);

/* Validates a request without changing anything. `report` gets the same object as a finished job's report (see
 * poolshift_job_wait) with "state":"checked" or "refused", its "checks" and a "plan". Blocks while libvirtd and the
 * cluster are asked (seconds; bounded by "patience_s"). Any thread. Errors: USAGE, REFUSED (`report` is set as well;
 * its error's code is "unreachable" when libvirtd or the cluster did not answer). Since 1.0. */
POOLSHIFT_API int poolshift_check(poolshift_host* host, const char* request, char** report, char** error);

/* Starts a swap in a thread of the library and returns at once. The request:
 *   {"schema":1, "domain":"NAME|UUID", "disk":"vda", "target":"POOL[/NAMESPACE]/IMAGE",
 *    "source":"POOL[/NAMESPACE]/IMAGE",     optional: refuse when the disk is on another image
 *    "create":false, "engine":"auto|mirror|handover", "hydrate":"auto|offload|flatten", "max_pause_ms":3000,
 *    "bandwidth_bytes_per_s":0, "source_after":"keep|trash",
 *    "target_access":{"mon_hosts":["HOST:PORT"],"user":"..","secret_uuid":"..",   optional
 *                     "secret_usage":"..","ceph_conf":"PATH"},
 *    "labels":{"KEY":"VALUE"}}              optional; kept and shown with the job, for the caller's own use
 * Errors: USAGE (malformed; no job is made). Everything else, refusals included, is the job's result. Since 1.0. */
POOLSHIFT_API int poolshift_job_start(poolshift_host* host, const char* request, poolshift_job** job, char** error);

/* A view of a job of this state folder, whoever runs it. Errors: REFUSED (no such job), HELD (its journal is damaged).
 * Blocks for local file operations only. Since 1.0. */
POOLSHIFT_API int poolshift_job_attach(poolshift_host* host, const char* job_id, poolshift_job** job, char** error);

/* Waits until the job has ended or `timeout_ms` have passed (0: only looks; negative: no limit), then gives its status
 * (`status` may be NULL). While it runs:
 *   {"schema":1,"job":"..","phase":"copy","running":true,"guest_on":"source","progress":{"step":"copying",
 *    "done_bytes":..,"total_bytes":..,"bytes_per_s":..,"left_s":..},..}
 * and when it has ended, the report described in poolshift(8) under "REPORT". Returns RUNNING while it runs, else the
 * result of the swap: OK, REFUSED, UNDONE, HELD, CANCELLED or INTERNAL. A job whose process died and that nobody has
 * recovered counts as HELD. Any thread; under eventlet call it in a native thread, in slices. Since 1.0. */
POOLSHIFT_API int poolshift_job_wait(poolshift_job* job, int timeout_ms, char** status, char** error);

/* A file descriptor that becomes readable when the job has ended; -1 for a job that runs in another process. It belongs
 * to the handle: do not read from it, do not close it. Never blocks. Since 1.0. */
POOLSHIFT_API int poolshift_job_fd(poolshift_job* job);

/* Changes a running job: {"schema":1,"bandwidth_bytes_per_s":N} (0: no limit). Takes effect within a second, also when
 * another process runs the job. Errors: USAGE, REFUSED (the job's phase does not allow it, or it flattens, which cannot
 * be limited; 0 is allowed then). Since 1.0. */
POOLSHIFT_API int poolshift_job_set(poolshift_job* job, const char* settings, char** error);

/* Asks the job to stop and undo. Returns at once; wait for the result. A handover whose guest is on the target already
 * stops getting its data and is HELD. Errors: REFUSED (past the point of no return, or ended). Since 1.0. */
POOLSHIFT_API int poolshift_job_cancel(poolshift_job* job, char** error);

/* Asks the library to stop following the job and leave it to poolshift_recover(); its work in QEMU goes on. Only for
 * jobs that this host runs. Returns at once; the job then ends as HELD. Errors: REFUSED. Since 1.0. */
POOLSHIFT_API int poolshift_job_leave(poolshift_job* job, char** error);

/* Gives up the view, not the swap. NULL is allowed. Since 1.0. */
POOLSHIFT_API void poolshift_job_release(poolshift_job* job);

/* The jobs of the state folder: {"schema":1,"jobs":[status or report, ...]}, oldest first. Blocks for local file
 * operations only. Since 1.0. */
POOLSHIFT_API int poolshift_jobs(poolshift_host* host, char** list, char** error);

/* The RBD disks of every domain of this host, active or not, as their XML says:
 *   {"schema":1,"disks":[{"domain":"NAME","domain_uuid":"..","active":true|false,"openstack":true|false,"disk":"vda",
 *    "serial":"..","source":{"pool":"..","namespace":"","image":".."}}, ...]}
 * "serial": of a disk that Nova attached the id of its volume. "openstack": Nova's metadata is in the XML; Nova and
 * Cinder would not know of a swap that they did not ask for. Changes nothing. Blocks while libvirtd is asked. Any
 * thread. Errors: HELD (libvirtd did not answer or denies it). Since 1.0. */
POOLSHIFT_API int poolshift_disks(poolshift_host* host, char** list, char** error);

/* Takes up every open job that nobody runs and carries it on, undoes it or holds it, by what the journal, libvirt and
 * the cluster show. `options`: NULL or {"schema":1,"job":"ID"} for one job. `report`: {"schema":1,"jobs":[report, ..]}
 * with the jobs that it took up. Blocks until each of them has ended. Errors: USAGE, REFUSED (no such job), HELD (at
 * least one job stays held; `report` is set). Since 1.0. */
POOLSHIFT_API int poolshift_recover(poolshift_host* host, const char* options, char** report, char** error);

/* Looks at this node: versions of libvirt, QEMU and librbd and what they cannot do, folders, the guardian, open and
 * held jobs, and whether the clusters answer the domains' users. `report`:
 * {"schema":1,"findings":[{"name":..,"result":"pass|info|warn|fail","found":..,"do":..}]}; poolshift(8) has the names.
 * Changes nothing. Blocks while libvirtd and the clusters are asked. Any thread. Returns OK, or HELD when a finding is
 * "fail". Since 1.0. */
POOLSHIFT_API int poolshift_doctor(poolshift_host* host, char** report, char** error);

/* Makes ready what a swap needs that brings a guest home whose image was put into the trash under it, while the
 * volume's owner names a copy that is out of date (Cinder's driver-assisted retype does that): the image that the guest
 * writes to gets its name back, the copy, `target` of the request, is set aside as "poolshift.stale.IMAGE" in its pool,
 * and an empty image takes its name. The swap itself is then poolshift_job_start() with the same request and
 * "source_after":"trash", so that nobody who still names the source finds old data there. Takes the request of a swap
 * and uses "domain", "disk", "target", "source" and "target_access" of it. Run again it does what is left to do. With
 * `dry_run` not 0 it only looks. `report`:
 *   {"schema":1,"source":"POOL/IMAGE","target":"POOL/IMAGE","restores":"ID in the trash"|null,
 *    "sets_aside":"POOL/IMAGE"|null,"creates_target":true|false,"done":true|false}
 * Blocks while libvirtd and the cluster are asked. Any thread. Errors: USAGE, REFUSED (nothing was changed), HELD
 * (libvirtd or the cluster did not answer; run it again). Since 1.0. */
POOLSHIFT_API int poolshift_rescue(poolshift_host* host, const char* request, int dry_run, char** report, char** error);

#ifdef __cplusplus
}
#endif

#endif
