/* A whole swap through the library, loaded with dlopen() and awaited with poll(). Needs the real thing: a
 * libvirtd, a cluster, a running guest.
 *
 *   abi_swap LIBRARY OPTIONS REQUEST RESULT
 *
 * OPTIONS and REQUEST are the JSON of poolshift_host_open() and poolshift_job_start(), RESULT is the number
 * that the swap must end with. The last line on stdout is the report.
 */
#define _POSIX_C_SOURCE 200809L

#include <poll.h>

#include "library.h"

enum { kSliceMs = 500, kMostSlices = 2 * 60 * 60 };

static struct library ps;

static void require(int condition, const char* what, const char* found) {
  if (condition) return;
  fprintf(stderr, "expected: %s; found: %s\n", what, found ? found : "nothing");
  exit(1);
}

/* The value of the first "job" in a report. */
static void copy_job_id(const char* report, char* id, size_t size) {
  static const char key[] = "\"job\":\"";
  const char* start = strstr(report, key);
  size_t length;
  require(start != NULL, "the report names the job", report);
  start += sizeof key - 1;
  length = strcspn(start, "\"");
  require(length > 0 && length < size, "the job's id is not empty", report);
  memcpy(id, start, length);
  id[length] = '\0';
}

/* By the descriptor, not by poolshift_job_wait(): that one only looks. */
static int await_end(poolshift_job* job) {
  int slices;
  struct pollfd wanted;
  wanted.fd = ps.job_fd(job);
  wanted.events = POLLIN;
  require(wanted.fd >= 0, "a job of this process has a descriptor", NULL);
  for (slices = 0; slices < kMostSlices; ++slices) {
    char* status = NULL;
    const int ready = poll(&wanted, 1, kSliceMs);
    const int result = ps.job_wait(job, 0, &status, NULL);
    require(status != NULL && strstr(status, "\"schema\":1") != NULL, "wait gives a status", status);
    require(ready <= 0 || result != POOLSHIFT_RUNNING, "a readable descriptor means that the job has ended", status);
    if (result == POOLSHIFT_RUNNING)
      require(strstr(status, "\"running\":true") != NULL, "it says that it runs", status);
    require(strstr(status, "\"guest_on\":\"") != NULL, "every status says where the guest is", status);
    ps.free_text(status);
    if (ready > 0) return result;
  }
  require(0, "the swap ends within an hour", NULL);
  return POOLSHIFT_INTERNAL;
}

static void require_same_report(poolshift_job* job, int expected, const char* report) {
  char* again = NULL;
  require(ps.job_wait(job, -1, &again, NULL) == expected, "the result stays", again);
  require(again && strcmp(again, report) == 0, "the report stays", again);
  ps.free_text(again);
}

static void require_verbs_refused(poolshift_job* job) {
  char* error = NULL;
  require(ps.job_cancel(job, &error) == POOLSHIFT_REFUSED, "an ended job cannot be cancelled", error);
  require(error != NULL, "a refusal says why", error);
  ps.free_text(error);
  error = NULL;
  require(ps.job_set(job, "{\"schema\":1,\"bandwidth_bytes_per_s\":0}", &error) == POOLSHIFT_REFUSED,
          "an ended job cannot be changed", error);
  ps.free_text(error);
}

/* A refused request leaves nothing behind, so there is nothing to attach to. */
static void require_attachable(poolshift_host* host, const char* id, int expected) {
  poolshift_job* view = NULL;
  char* error = NULL;
  char* report = NULL;
  require(ps.job_attach(host, id, &view, &error) == POOLSHIFT_OK, "an ended job can be attached to", error);
  require(ps.job_wait(view, 0, &report, &error) == expected, "a view of an ended job gives its result", report);
  ps.free_text(report);
  ps.job_release(view);
  require(ps.jobs(host, &report, &error) == POOLSHIFT_OK && strstr(report, id), "the job is listed", report);
  ps.free_text(report);
}

int main(int argc, char** argv) {
  poolshift_host* host = NULL;
  poolshift_job* job = NULL;
  char* error = NULL;
  char* report = NULL;
  char id[64];
  int expected, result;
  if (argc != 5) {
    fprintf(stderr, "usage: %s LIBRARY OPTIONS REQUEST RESULT\n", argv[0]);
    return 2;
  }
  expected = atoi(argv[4]);
  ps = load_library(argv[1]);
  require(ps.host_open(argv[2], &host, &error) == POOLSHIFT_OK, "the host opens", error);
  require(ps.job_start(host, argv[3], &job, &error) == POOLSHIFT_OK, "the job starts", error);
  result = await_end(job);
  require(ps.job_wait(job, 0, &report, NULL) == result, "the result stays", report);
  require(result == expected, "the result that was asked for", report);
  require_same_report(job, expected, report);
  require_verbs_refused(job);
  ps.job_release(job);
  if (expected != POOLSHIFT_REFUSED) {
    copy_job_id(report, id, sizeof id);
    require_attachable(host, id, expected);
  }
  ps.host_close(host);
  puts(report);
  ps.free_text(report);
  return 0;
}
