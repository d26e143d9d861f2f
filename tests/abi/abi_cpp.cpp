// The header as C++, linked against the library in the usual way: names are not mangled, the handles are
// opaque types of their own, and the numbers that stand in scripts have not moved.
#include <poolshift.h>

#include <cstdio>
#include <type_traits>

static_assert(POOLSHIFT_OK == 0 && POOLSHIFT_INTERNAL == 1 && POOLSHIFT_USAGE == 2 && POOLSHIFT_REFUSED == 3 &&
                  POOLSHIFT_UNDONE == 4 && POOLSHIFT_HELD == 5 && POOLSHIFT_CANCELLED == 6 && POOLSHIFT_RUNNING == 7,
              "results are exit codes of poolshift(8) and are never renumbered");
static_assert(!std::is_same_v<poolshift_host, poolshift_job>);

int main() {
  const unsigned abi = poolshift_abi_version();
  if (abi / 1000 != POOLSHIFT_ABI_MAJOR || abi < POOLSHIFT_ABI_MAJOR * 1000 + POOLSHIFT_ABI_MINOR) {
    std::fprintf(stderr, "header %d.%d, library %u\n", POOLSHIFT_ABI_MAJOR, POOLSHIFT_ABI_MINOR, abi);
    return 1;
  }
  poolshift_free(poolshift_capabilities());
  return 0;
}
