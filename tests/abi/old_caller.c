/* A caller of ABI 1.0, frozen: this file is never changed, and does not include poolshift.h. It stands for
 * programs that were built against 1.0 and are never built again; as long as the library is libpoolshift.so.1
 * it must serve them. If this test fails, the library is wrong, not the test.
 *
 * What it relies on: names and argument types of all functions of 1.0, the numbers of the results, the keys
 * of options, request and error, and that wrong input is told apart from refusals.
 *
 *   old_caller LIBRARY STATE_DIR
 */
#define _GNU_SOURCE /* dlvsym */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct host_1_0;
struct job_1_0;

enum { OK_1_0 = 0, USAGE_1_0 = 2, REFUSED_1_0 = 3, HELD_1_0 = 5 };

static void* library;

static void find(const char* name, void* function_pointer) {
  void* symbol = dlvsym(library, name, "POOLSHIFT_1.0");
  if (!symbol) {
    fprintf(stderr, "%s@POOLSHIFT_1.0 is gone\n", name);
    exit(1);
  }
  memcpy(function_pointer, &symbol, sizeof symbol);
}

static void require(int condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "a caller of 1.0 expects: %s\n", what);
  exit(1);
}

int main(int argc, char** argv) {
  const char* (*version)(void);
  unsigned (*abi_version)(void);
  char* (*capabilities)(void);
  void (*free_text)(void*);
  int (*host_open)(const char*, struct host_1_0**, char**);
  void (*host_close)(struct host_1_0*);
  int (*check)(struct host_1_0*, const char*, char**, char**);
  int (*job_start)(struct host_1_0*, const char*, struct job_1_0**, char**);
  int (*job_attach)(struct host_1_0*, const char*, struct job_1_0**, char**);
  int (*job_wait)(struct job_1_0*, int, char**, char**);
  int (*job_fd)(struct job_1_0*);
  int (*job_set)(struct job_1_0*, const char*, char**);
  int (*job_cancel)(struct job_1_0*, char**);
  int (*job_leave)(struct job_1_0*, char**);
  void (*job_release)(struct job_1_0*);
  int (*jobs)(struct host_1_0*, char**, char**);
  int (*recover)(struct host_1_0*, const char*, char**, char**);
  int (*doctor)(struct host_1_0*, char**, char**);
  static const char request[] =
      "{\"schema\":1,\"domain\":\"guest\",\"disk\":\"vda\",\"target\":\"pool/namespace/image\","
      "\"source\":\"pool/source\",\"create\":true,\"engine\":\"auto\",\"bandwidth_bytes_per_s\":1048576,"
      "\"source_after\":\"trash\",\"target_access\":{\"mon_hosts\":[\"192.0.2.1:6789\"],\"user\":\"cinder\","
      "\"secret_uuid\":\"1e2f3a4b-0000-4000-8000-000000000001\"}}";
  struct host_1_0* host = NULL;
  struct job_1_0* job = NULL;
  char* text = NULL;
  char* error = NULL;
  char options[1024];

  if (argc != 3) {
    fprintf(stderr, "usage: %s LIBRARY STATE_DIR\n", argv[0]);
    return 2;
  }
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  find("poolshift_version", &version);
  find("poolshift_abi_version", &abi_version);
  find("poolshift_capabilities", &capabilities);
  find("poolshift_free", &free_text);
  find("poolshift_host_open", &host_open);
  find("poolshift_host_close", &host_close);
  find("poolshift_check", &check);
  find("poolshift_job_start", &job_start);
  find("poolshift_job_attach", &job_attach);
  find("poolshift_job_wait", &job_wait);
  find("poolshift_job_fd", &job_fd);
  find("poolshift_job_set", &job_set);
  find("poolshift_job_cancel", &job_cancel);
  find("poolshift_job_leave", &job_leave);
  find("poolshift_job_release", &job_release);
  find("poolshift_jobs", &jobs);
  find("poolshift_recover", &recover);
  find("poolshift_doctor", &doctor);

  require(abi_version() / 1000 == 1, "ABI 1.x");
  require(version() != NULL, "a version");
  text = capabilities();
  require(text && strstr(text, "\"mirror\""), "the engine 'mirror'");
  free_text(text);

  snprintf(options, sizeof options,
           "{\"schema\":1,\"connect\":\"qemu+unix:///system?socket=/nonexistent/"
           "libvirt-sock\",\"state_dir\":\"%s\","
           "\"ceph_conf\":\"\",\"log_file\":\"\",\"log_level\":\"info\",\"patience_s\":1,\"owns_process\":true}",
           argv[2]);
  require(host_open(options, &host, &error) == OK_1_0 && host && !error, "all options of 1.0 are taken");

  require(check(host, "{\"schema\":1}", &text, &error) == USAGE_1_0, "a request without keys is USAGE");
  require(
      error && strstr(error, "\"code\":\"invalid\"") && strstr(error, "\"message\":") && strstr(error, "\"advice\":"),
      "an error has code, message and advice");
  free_text(error);
  /* All keys of 1.0 are taken: the request fails because there is no libvirtd, not because it is malformed.
   */
  error = NULL;
  text = NULL;
  require(check(host, request, &text, &error) == REFUSED_1_0, "all keys of a request of 1.0 are taken");
  require(error != NULL, "a failure has an error");
  free_text(text);
  free_text(error);

  error = NULL;
  require(job_start(host, "{\"schema\":1,\"unknown\":0}", &job, &error) == USAGE_1_0 && !job, "unknown keys are USAGE");
  free_text(error);
  error = NULL;
  require(job_attach(host, "000000000000", &job, &error) == REFUSED_1_0 && !job, "no such job is REFUSED");
  free_text(error);
  error = NULL;
  text = NULL;
  require(jobs(host, &text, &error) == OK_1_0 && text && strstr(text, "\"jobs\":["), "a list of jobs");
  free_text(text);
  text = NULL;
  require(recover(host, NULL, &text, NULL) == OK_1_0 && text && strstr(text, "\"jobs\":["), "nothing to recover is OK");
  free_text(text);
  text = NULL;
  require(doctor(host, &text, NULL) == HELD_1_0 && text && strstr(text, "\"findings\":["), "findings");
  free_text(text);
  job_release(NULL);
  host_close(host);
  return 0;
}
