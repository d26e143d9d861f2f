// One function for each subcommand; gives the exit code, which is one of enum poolshift_result, or of the doctor
// kExitWarnings.
#pragma once

#include "options.h"

namespace poolshift::cli {

int run_swap(const Options& options);
int run_check(const Options& options);
int run_status(const Options& options);
int run_cancel(const Options& options);
int run_set(const Options& options);
int run_recover(const Options& options);
int run_doctor(const Options& options);
int run_rescue(const Options& options);
int run_worker(const Options& options);
int run_drain(const Options& options);
int run_queue(const Options& options);
int run_metrics(const Options& options);
int run_policy(const Options& options);

}  // namespace poolshift::cli
