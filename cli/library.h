// libpoolshift's C ABI with owners for what it hands out. Nothing else in the command calls it.
#pragma once

#include <poolshift.h>

#include <memory>
#include <string>

#include "document.h"
#include "outcome.h"

namespace poolshift::cli {

// What a call gave. `document` and `failure` may both be set: a refused check has a report and an error.
struct Reply {
  int result = POOLSHIFT_INTERNAL;
  Document document;  // null when the call gave none
  Failure failure;    // meaningful when `result` is neither OK nor RUNNING

  bool ok() const { return result == POOLSHIFT_OK; }
};

// Fails when the library that was loaded cannot serve the header this command was built with.
Outcome<std::string> library_version();

class Job {
 public:
  explicit Job(poolshift_job* job) : job_(job) {}

  Reply wait(int timeout_ms);
  Reply set(const Document& settings);
  Reply cancel();
  Reply leave();
  int fd();

 private:
  struct Releaser {
    void operator()(poolshift_job* job) const { poolshift_job_release(job); }
  };
  std::unique_ptr<poolshift_job, Releaser> job_;
};

class Host {
 public:
  static Outcome<Host> open(const Document& options);

  Reply check(const Document& request);
  Outcome<Job> start(const Document& request);
  Outcome<Job> attach(const std::string& job_id);
  Reply jobs();
  Reply disks();
  Reply recover(const Document& options);
  Reply doctor();
  Reply rescue(const Document& request, bool dry_run);

 private:
  explicit Host(poolshift_host* host) : host_(host) {}

  struct Closer {
    void operator()(poolshift_host* host) const { poolshift_host_close(host); }
  };
  std::unique_ptr<poolshift_host, Closer> host_;
};

}  // namespace poolshift::cli
