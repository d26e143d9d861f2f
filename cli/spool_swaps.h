// What the spool's worker needs of libpoolshift, by the C ABI.
#pragma once

#include <memory>

#include "library.h"
#include "spool/worker.h"

namespace poolshift::cli {

// `host` must live longer than it and than the jobs that it gives.
std::unique_ptr<SwapRunner> make_swap_runner(Host& host);

// The same JSON for the one library and for the other.
nlohmann::json unordered(const Document& document);
Document ordered(const nlohmann::json& json);

// Of `jobs` ("jobs" of poolshift_jobs()) the open one of a request, else its latest; null: it has none.
nlohmann::json job_of_request(const SpoolRequest& request, const nlohmann::json& jobs);

Failure failure_of(const Error& error);

}  // namespace poolshift::cli
