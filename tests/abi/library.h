/* dlopen() and dlsym() for the tests, in strict C99: every function of poolshift.h by a pointer of its own
 * type. */
#ifndef POOLSHIFT_TESTS_ABI_LIBRARY_H
#define POOLSHIFT_TESTS_ABI_LIBRARY_H

#include <dlfcn.h>
#include <poolshift.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct library {
  const char* (*version)(void);
  unsigned (*abi_version)(void);
  char* (*capabilities)(void);
  void (*free_text)(void*);
  int (*host_open)(const char*, poolshift_host**, char**);
  void (*host_close)(poolshift_host*);
  int (*check)(poolshift_host*, const char*, char**, char**);
  int (*job_start)(poolshift_host*, const char*, poolshift_job**, char**);
  int (*job_attach)(poolshift_host*, const char*, poolshift_job**, char**);
  int (*job_wait)(poolshift_job*, int, char**, char**);
  int (*job_fd)(poolshift_job*);
  int (*job_set)(poolshift_job*, const char*, char**);
  int (*job_cancel)(poolshift_job*, char**);
  int (*job_leave)(poolshift_job*, char**);
  void (*job_release)(poolshift_job*);
  int (*jobs)(poolshift_host*, char**, char**);
  int (*disks)(poolshift_host*, char**, char**);
  int (*recover)(poolshift_host*, const char*, char**, char**);
  int (*doctor)(poolshift_host*, char**, char**);
  int (*rescue)(poolshift_host*, const char*, int, char**, char**);
};

static void resolve(void* handle, const char* name, void* function_pointer) {
  void* symbol = dlsym(handle, name);
  if (!symbol) {
    fprintf(stderr, "the library has no function %s: %s\n", name, dlerror());
    exit(1);
  }
  /* C99 has no cast from object to function pointer; POSIX promises that both look the same. */
  memcpy(function_pointer, &symbol, sizeof symbol);
}

/* sizeof does not evaluate, so nothing is linked; but the assignment in it is an error unless the types are
 * the same. */
#define RESOLVE(library, member, function)         \
  do {                                             \
    (void)sizeof((library).member = function);     \
    resolve(handle, #function, &(library).member); \
  } while (0)

static struct library load_library(const char* path) {
  struct library library;
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    fprintf(stderr, "cannot load %s: %s\n", path, dlerror());
    exit(1);
  }
  RESOLVE(library, version, poolshift_version);
  RESOLVE(library, abi_version, poolshift_abi_version);
  RESOLVE(library, capabilities, poolshift_capabilities);
  RESOLVE(library, free_text, poolshift_free);
  RESOLVE(library, host_open, poolshift_host_open);
  RESOLVE(library, host_close, poolshift_host_close);
  RESOLVE(library, check, poolshift_check);
  RESOLVE(library, job_start, poolshift_job_start);
  RESOLVE(library, job_attach, poolshift_job_attach);
  RESOLVE(library, job_wait, poolshift_job_wait);
  RESOLVE(library, job_fd, poolshift_job_fd);
  RESOLVE(library, job_set, poolshift_job_set);
  RESOLVE(library, job_cancel, poolshift_job_cancel);
  RESOLVE(library, job_leave, poolshift_job_leave);
  RESOLVE(library, job_release, poolshift_job_release);
  RESOLVE(library, jobs, poolshift_jobs);
  RESOLVE(library, disks, poolshift_disks);
  RESOLVE(library, recover, poolshift_recover);
  RESOLVE(library, doctor, poolshift_doctor);
  RESOLVE(library, rescue, poolshift_rescue);
  return library;
}

#endif
