/* The header as strict C99, the library by dlopen(), and what it says to wrong arguments. Needs neither
 * libvirtd nor a cluster.
 *
 *   abi_c99 LIBRARY
 */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "library.h"

static struct library ps;
static int failures = 0;

#define EXPECT(condition, ...)                                         \
  do {                                                                 \
    if (!(condition)) {                                                \
      ++failures;                                                      \
      fprintf(stderr, "line %d: expected %s: ", __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__);                                    \
      fputc('\n', stderr);                                             \
    }                                                                  \
  } while (0)

/* After a failure the error is an object with all its keys; the text is freed here. */
static void expect_error(int line, const char* what, int got, int expected, char* error) {
  static const char* const keys[] = {"\"schema\":1", "\"code\":\"", "\"message\":\"", "\"advice\":\""};
  size_t i;
  if (got != expected) {
    ++failures;
    fprintf(stderr, "line %d: %s gave %d, not %d: %s\n", line, what, got, expected, error ? error : "(no error)");
  }
  for (i = 0; expected != POOLSHIFT_OK && i < sizeof keys / sizeof keys[0]; ++i) {
    if (error && strstr(error, keys[i])) continue;
    ++failures;
    fprintf(stderr, "line %d: the error of %s has no %s: %s\n", line, what, keys[i], error ? error : "(no error)");
  }
  if (expected == POOLSHIFT_OK && error) {
    ++failures;
    fprintf(stderr, "line %d: %s succeeded with an error: %s\n", line, what, error);
  }
  ps.free_text(error);
}

#define EXPECT_RESULT(expected, call)                      \
  do {                                                     \
    char* error = not_set;                                 \
    int got = (call);                                      \
    expect_error(__LINE__, #call, got, (expected), error); \
  } while (0)

static char not_set[] = "the library did not set `error`";

/* Every text that no function may take for a request, nor for options or settings. */
static const char* const malformed[] = {
    "",
    " ",
    "{",
    "[]",
    "null",
    "42",
    "\"text\"",
    "{\"schema\":1",
    "{\"schema\":1}}",
    "{\"schema\":1,}",
    "{'schema':1}",
    "{\"schema\":2}",
    "{\"schema\":\"1\"}",
    "{\"schema\":1,\"no_such_key\":true}",
    "{\"schema\":1,\"domain\":\"\xff\xfe\",\"connect\":\"\xff\xfe\"}",
    "\xef\xbb\xbf{",
};
#define MALFORMED_COUNT (sizeof malformed / sizeof malformed[0])

static const char* const bad_options[] = {
    "{\"schema\":1,\"connect\":7}",     "{\"schema\":1,\"state_dir\":null}",     "{\"schema\":1,\"patience_s\":\"60\"}",
    "{\"schema\":1,\"patience_s\":-1}", "{\"schema\":1,\"log_level\":\"loud\"}",
};
#define BAD_OPTIONS_COUNT (sizeof bad_options / sizeof bad_options[0])

#define REQUEST_HEAD "{\"schema\":1,\"domain\":\"d\",\"disk\":\"vda\",\"target\":\"pool/image\""

static const char* const bad_requests[] = {
    "{\"schema\":1,\"disk\":\"vda\",\"target\":\"pool/image\"}",
    "{\"schema\":1,\"domain\":\"d\",\"target\":\"pool/image\"}",
    "{\"schema\":1,\"domain\":\"d\",\"disk\":\"vda\"}",
    "{\"schema\":1,\"domain\":7,\"disk\":\"vda\",\"target\":\"pool/image\"}",
    "{\"schema\":1,\"domain\":[\"d\"],\"disk\":\"vda\",\"target\":\"pool/image\"}",
    "{\"schema\":1,\"domain\":\"\",\"disk\":\"vda\",\"target\":\"pool/image\"}",
    "{\"schema\":1,\"domain\":\"d\",\"disk\":\"vda\",\"target\":\"image\"}",
    "{\"schema\":1,\"domain\":\"d\",\"disk\":\"vda\",\"target\":\"pool/image@snapshot\"}",
    "{\"schema\":1,\"domain\":\"d\",\"disk\":\"vda\",\"target\":\"pool//image\"}",
    REQUEST_HEAD ",\"create\":\"yes\"}",
    REQUEST_HEAD ",\"create\":1}",
    REQUEST_HEAD ",\"engine\":\"magic\"}",
    REQUEST_HEAD ",\"bandwidth_bytes_per_s\":-1}",
    REQUEST_HEAD ",\"bandwidth_bytes_per_s\":\"50M\"}",
    REQUEST_HEAD ",\"bandwidth_bytes_per_s\":1.5}",
    REQUEST_HEAD ",\"bandwidth_bytes_per_s\":18446744073709551615}",
    REQUEST_HEAD ",\"source_after\":\"burn\"}",
    REQUEST_HEAD ",\"target_access\":\"host\"}",
    REQUEST_HEAD ",\"target_access\":{\"key\":\"secret\"}}",
};
#define BAD_REQUESTS_COUNT (sizeof bad_requests / sizeof bad_requests[0])

/* An otherwise good text of more than POOLSHIFT_MAX_JSON_BYTES; the caller frees it. */
static char* too_long(const char* head) {
  const size_t head_length = strlen(head);
  char* text = malloc(head_length + POOLSHIFT_MAX_JSON_BYTES + 2);
  if (!text) exit(1);
  memcpy(text, head, head_length);
  memset(text + head_length, ' ', POOLSHIFT_MAX_JSON_BYTES);
  strcpy(text + head_length + POOLSHIFT_MAX_JSON_BYTES, "}");
  return text;
}

static void test_versions(void) {
  unsigned major = 0, minor = 0, patch = 0;
  const unsigned abi = ps.abi_version();
  EXPECT(sscanf(ps.version(), "%u.%u.%u", &major, &minor, &patch) == 3, "version is '%s'", ps.version());
  EXPECT(abi / 1000 == POOLSHIFT_ABI_MAJOR, "ABI is %u", abi);
  EXPECT(abi % 1000 + 1 > POOLSHIFT_ABI_MINOR, "ABI is %u", abi);
  EXPECT(strcmp(ps.version(), ps.version()) == 0, "version changes");
}

static void test_capabilities(void) {
  char* text = ps.capabilities();
  EXPECT(text && strstr(text, "\"schema\":1"), "capabilities are %s", text ? text : "NULL");
  EXPECT(text && strstr(text, "\"engines\":["), "capabilities are %s", text ? text : "NULL");
  EXPECT(text && strstr(text, "\"mirror\""), "capabilities are %s", text ? text : "NULL");
  ps.free_text(text);
  ps.free_text(NULL);
}

static void expect_no_host(int line, const char* options) {
  int anything = 0;
  poolshift_host* host = (poolshift_host*)(void*)&anything;
  char* error = not_set;
  char head[80];
  const int result = ps.host_open(options, &host, &error);
  snprintf(head, sizeof head, "host_open(%.60s)", options);
  expect_error(line, head, result, POOLSHIFT_USAGE, error);
  EXPECT(host == NULL, "%s left a handle", head);
}

static void test_options(void) {
  char* text = too_long("{\"schema\":1");
  size_t i;
  for (i = 0; i < MALFORMED_COUNT; ++i) expect_no_host(__LINE__, malformed[i]);
  for (i = 0; i < BAD_OPTIONS_COUNT; ++i) expect_no_host(__LINE__, bad_options[i]);
  expect_no_host(__LINE__, text);
  free(text);
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.host_open(NULL, NULL, &error));
  EXPECT(ps.host_open("{", NULL, NULL) == POOLSHIFT_USAGE, "without an error wanted");
}

static void expect_usage(int line, poolshift_host* host, const char* request) {
  int anything = 0;
  poolshift_job* job = (poolshift_job*)(void*)&anything;
  char* report = not_set;
  char* error = not_set;
  char head[80];
  int result = ps.job_start(host, request, &job, &error);
  snprintf(head, sizeof head, "job_start(%.60s)", request ? request : "NULL");
  expect_error(line, head, result, POOLSHIFT_USAGE, error);
  EXPECT(job == NULL, "%s made a job", head);
  error = not_set;
  result = ps.check(host, request, &report, &error);
  snprintf(head, sizeof head, "check(%.60s)", request ? request : "NULL");
  expect_error(line, head, result, POOLSHIFT_USAGE, error);
  EXPECT(report == NULL, "%s gave a report", head);
}

static void test_requests(poolshift_host* host) {
  char* text = too_long(REQUEST_HEAD);
  char* list = NULL;
  size_t i;
  for (i = 0; i < MALFORMED_COUNT; ++i) expect_usage(__LINE__, host, malformed[i]);
  for (i = 0; i < BAD_REQUESTS_COUNT; ++i) expect_usage(__LINE__, host, bad_requests[i]);
  expect_usage(__LINE__, host, NULL);
  expect_usage(__LINE__, host, text);
  free(text);
  EXPECT(ps.job_start(host, "{", NULL, NULL) == POOLSHIFT_USAGE, "without a place for the job");
  EXPECT_RESULT(POOLSHIFT_OK, ps.jobs(host, &list, &error));
  EXPECT(list && strstr(list, "\"jobs\":[]"), "malformed requests left jobs: %s", list ? list : "NULL");
  ps.free_text(list);
}

static void test_null_handles(void) {
  char* text = not_set;
  poolshift_job* job = NULL;
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.check(NULL, REQUEST_HEAD "}", &text, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_start(NULL, REQUEST_HEAD "}", &job, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_attach(NULL, "0123456789ab", &job, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_wait(NULL, 0, &text, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_set(NULL, "{\"schema\":1,\"bandwidth_bytes_per_s\":0}", &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_cancel(NULL, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_leave(NULL, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.jobs(NULL, &text, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.recover(NULL, NULL, &text, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.disks(NULL, &text, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.doctor(NULL, &text, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.rescue(NULL, REQUEST_HEAD "}", 1, &text, &error));
  EXPECT(ps.job_fd(NULL) == -1, "a NULL job has a descriptor");
  ps.job_release(NULL);
  ps.host_close(NULL);
}

static void test_null_outputs(poolshift_host* host) {
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_start(host, REQUEST_HEAD "}", NULL, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_attach(host, "0123456789ab", NULL, &error));
}

static void test_unknown_jobs(poolshift_host* host) {
  poolshift_job* job = NULL;
  char* report = NULL;
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.job_attach(host, NULL, &job, &error));
  EXPECT_RESULT(POOLSHIFT_REFUSED, ps.job_attach(host, "0123456789ab", &job, &error));
  EXPECT_RESULT(POOLSHIFT_REFUSED, ps.job_attach(host, "", &job, &error));
  EXPECT_RESULT(POOLSHIFT_REFUSED, ps.job_attach(host, "../../etc/passwd", &job, &error));
  EXPECT_RESULT(POOLSHIFT_REFUSED, ps.job_attach(host, "\xff\xfe", &job, &error));
  EXPECT(job == NULL, "an unknown job has a handle");
  EXPECT_RESULT(POOLSHIFT_REFUSED, ps.recover(host, "{\"schema\":1,\"job\":\"0123456789ab\"}", &report, &error));
}

static void test_recover_nothing(poolshift_host* host) {
  char* report = NULL;
  size_t i;
  for (i = 0; i < MALFORMED_COUNT; ++i) EXPECT_RESULT(POOLSHIFT_USAGE, ps.recover(host, malformed[i], &report, &error));
  EXPECT_RESULT(POOLSHIFT_OK, ps.recover(host, NULL, &report, &error));
  EXPECT(report && strstr(report, "\"jobs\":[]"), "report of nothing is %s", report ? report : "NULL");
  ps.free_text(report);
}

/* The hypervisor cannot be reached: nothing was changed, and the report says why. */
static void test_unreachable(poolshift_host* host) {
  char* report = NULL;
  char* findings = NULL;
  int result;
  EXPECT_RESULT(POOLSHIFT_REFUSED, ps.check(host, REQUEST_HEAD "}", &report, &error));
  ps.free_text(report);
  EXPECT_RESULT(POOLSHIFT_HELD, ps.rescue(host, REQUEST_HEAD "}", 1, &report, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.rescue(host, REQUEST_HEAD, 0, &report, &error));
  EXPECT_RESULT(POOLSHIFT_USAGE, ps.rescue(host, NULL, 0, &report, &error));
  result = ps.doctor(host, &findings, NULL);
  EXPECT(result == POOLSHIFT_HELD, "doctor gave %d", result);
  EXPECT(findings && strstr(findings, "\"findings\":["), "findings are %s", findings ? findings : "NULL");
  EXPECT(findings && strstr(findings, "\"fail\""), "findings are %s", findings ? findings : "NULL");
  ps.free_text(findings);
}

static poolshift_host* open_host(const char* state_dir) {
  poolshift_host* host = NULL;
  char options[512];
  snprintf(options, sizeof options,
           "{\"schema\":1,\"connect\":\"qemu+unix:///system?socket=%s/no-libvirtd\",\"state_dir\":\"%s\","
           "\"patience_s\":1}",
           state_dir, state_dir);
  EXPECT_RESULT(POOLSHIFT_OK, ps.host_open(options, &host, &error));
  return host;
}

static void test_state_folder_not_usable(void) {
  poolshift_host* host = NULL;
  EXPECT_RESULT(POOLSHIFT_HELD, ps.host_open("{\"schema\":1,\"state_dir\":\"/dev/null/x\"}", &host, &error));
  EXPECT(host == NULL, "a host without a state folder");
}

int main(int argc, char** argv) {
  char state_dir[] = "/tmp/poolshift-abi-XXXXXX";
  char command[80];
  poolshift_host* host;
  if (argc != 2) {
    fprintf(stderr, "usage: %s LIBRARY\n", argv[0]);
    return 2;
  }
  ps = load_library(argv[1]);
  if (!mkdtemp(state_dir)) return 1;
  test_versions();
  test_capabilities();
  test_options();
  test_null_handles();
  test_state_folder_not_usable();
  host = open_host(state_dir);
  if (host) {
    test_requests(host);
    test_null_outputs(host);
    test_unknown_jobs(host);
    test_recover_nothing(host);
    test_unreachable(host);
    ps.host_close(host);
  }
  snprintf(command, sizeof command, "rm -rf %s", state_dir);
  if (system(command) != 0) fprintf(stderr, "cannot remove %s\n", state_dir);
  if (failures) fprintf(stderr, "%d failures\n", failures);
  return failures ? 1 : 0;
}
