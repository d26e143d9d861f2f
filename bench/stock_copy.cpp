// What stock Nova does to swap a disk (nova/virt/libvirt/driver.py, _swap_volume): undefine the domain, block copy with
// REUSE_EXT and nothing else, look every 0.5 s until it is ready, pivot, define the domain again. The yardstick of the
// benchmark: the same libvirt calls, without Nova around them.
//
// usage: stock-copy URI DOMAIN DISK TARGET-DISK-XML-FILE; prints the seconds from start to the end of the pivot.
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

namespace {

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "stock-copy: %s: %s\n", what, virGetLastErrorMessage());
  std::exit(1);
}

std::string xml_of(virDomainPtr domain, unsigned flags) {
  const std::unique_ptr<char, decltype(&std::free)> xml(virDomainGetXMLDesc(domain, flags), &std::free);
  if (!xml) die("cannot read the domain");
  return xml.get();
}

// Nova's is_job_complete(): no job counts as complete; a copy must be ready in the XML as well.
bool is_complete(virDomainPtr domain, const char* disk) {
  virDomainBlockJobInfo info;
  const int found = virDomainGetBlockJobInfo(domain, disk, &info, 0);
  if (found < 0) die("cannot ask for the job");
  if (found == 0) return true;
  return info.end != 0 && info.cur == info.end && xml_of(domain, 0).find("ready='yes'") != std::string::npos;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: stock-copy URI DOMAIN DISK TARGET-DISK-XML-FILE\n");
    return 2;
  }
  std::ifstream file(argv[4]);
  const std::string target{std::istreambuf_iterator<char>(file), {}};
  const virConnectPtr connection = virConnectOpen(argv[1]);
  if (connection == nullptr) die("cannot connect");
  const virDomainPtr domain = virDomainLookupByName(connection, argv[2]);
  if (domain == nullptr) die("cannot find the domain");
  const auto started = std::chrono::steady_clock::now();
  const std::string definition = xml_of(domain, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);
  if (virDomainIsPersistent(domain) == 1 && virDomainUndefine(domain) != 0) die("cannot undefine the domain");
  if (virDomainBlockCopy(domain, argv[3], target.c_str(), nullptr, 0, VIR_DOMAIN_BLOCK_COPY_REUSE_EXT) != 0) {
    die("cannot start the copy");
  }
  while (!is_complete(domain, argv[3])) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  if (virDomainBlockJobAbort(domain, argv[3], VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT) != 0) die("cannot pivot");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  const virDomainPtr defined = virDomainDefineXML(connection, xml_of(domain, VIR_DOMAIN_XML_SECURE).c_str());
  if (defined == nullptr) die("cannot define the domain again");
  virDomainFree(defined);
  virDomainFree(domain);
  virConnectClose(connection);
  std::printf("%.3f\n", took.count());
}
