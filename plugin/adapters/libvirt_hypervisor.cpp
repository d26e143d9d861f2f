#include "adapters/libvirt_hypervisor.h"

#include <errno.h>
#include <fmt/core.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <algorithm>
#include <mutex>
#include <string_view>
#include <vector>

#include "adapters/domain_xml.h"
#include "adapters/handles.h"
#include "adapters/sigpipe.h"

namespace poolshift {
namespace {

void ignore_error(void*, virErrorPtr) {}

// The calling thread's last libvirt error. To be made before any handle is freed: virDomainFree() and its
// like reset it.
struct LibvirtError {
  int code = VIR_ERR_OK;
  int domain = VIR_FROM_NONE;
  int error_number = 0;
  std::string message = "unknown error";
};

LibvirtError last_error() {
  LibvirtError error;
  if (const virError* last = virGetLastError(); last != nullptr) {
    error.code = last->code;
    error.domain = last->domain;
    error.error_number = last->int1;
    if (last->message != nullptr) error.message = last->message;
  }
  return error;
}

// The socket's errors come with VIR_FROM_RPC: a call on a closed one says VIR_ERR_INTERNAL_ERROR "client
// socket is closed", a daemon that goes away in mid-call VIR_ERR_SYSTEM_ERROR "Cannot recv data" or "End of
// file".
bool is_connection_lost(const LibvirtError& error) {
  switch (error.code) {
    case VIR_ERR_RPC:
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_INVALID_CONN: return true;
    case VIR_ERR_SYSTEM_ERROR:
    case VIR_ERR_INTERNAL_ERROR: return error.domain == VIR_FROM_RPC || error.domain == VIR_FROM_REMOTE;
    default: return false;
  }
}

ErrorCode code_of(const LibvirtError& error) {
  if (is_connection_lost(error)) return ErrorCode::unreachable;
  // "cannot acquire state change lock (held by ...)": another operation on the domain lasts; it will end.
  if (error.code == VIR_ERR_OPERATION_TIMEOUT) return ErrorCode::unreachable;
  switch (error.code) {
    case VIR_ERR_NO_DOMAIN:
    case VIR_ERR_NO_SECRET: return ErrorCode::not_found;
    case VIR_ERR_ACCESS_DENIED:
    case VIR_ERR_OPERATION_DENIED:
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_AUTH_CANCELLED:
    case VIR_ERR_AUTH_UNAVAILABLE: return ErrorCode::denied;
    case VIR_ERR_BLOCK_COPY_ACTIVE:
    case VIR_ERR_RESOURCE_BUSY: return ErrorCode::busy;
    case VIR_ERR_NO_SUPPORT:
    case VIR_ERR_OPERATION_UNSUPPORTED:
    case VIR_ERR_ARGUMENT_UNSUPPORTED:
    case VIR_ERR_CONFIG_UNSUPPORTED: return ErrorCode::unsupported;
    default: return ErrorCode::failed;
  }
}

std::string_view advice_for(ErrorCode code) {
  switch (code) {
    case ErrorCode::unreachable: return "Check that libvirtd runs on this host, then try again.";
    case ErrorCode::not_found: return "Check the name with 'virsh list --all'.";
    case ErrorCode::denied: return "Run as a user who may manage domains, or change libvirt's access rules.";
    case ErrorCode::busy: return "Wait until the other operation on this domain is done, then try again.";
    case ErrorCode::unsupported: return "Use a version of libvirt and QEMU that can do this.";
    default: return "Look into libvirtd's log and the domain's log in /var/log/libvirt/qemu.";
  }
}

Error make_error(const LibvirtError& error, std::string_view what) {
  const auto code = code_of(error);
  return {code, fmt::format("{}: {}", what, error.message), std::string(advice_for(code))};
}

std::string base64(const unsigned char* bytes, std::size_t size) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((size + 2) / 3 * 4);
  for (std::size_t at = 0; at < size; at += 3) {
    const auto byte = [&](std::size_t index) { return at + index < size ? unsigned{bytes[at + index]} : 0U; };
    const unsigned group = byte(0) << 16 | byte(1) << 8 | byte(2);
    text += kAlphabet[group >> 18];
    text += kAlphabet[group >> 12 & 63];
    text += at + 1 < size ? kAlphabet[group >> 6 & 63] : '=';
    text += at + 2 < size ? kAlphabet[group & 63] : '=';
  }
  return text;
}

std::string version_text(unsigned long version) {
  return fmt::format("{}.{}.{}", version / 1000000, version / 1000 % 1000, version % 1000);
}

DomainState state_of(int state) {
  switch (state) {
    case VIR_DOMAIN_SHUTOFF:
    case VIR_DOMAIN_CRASHED:
    case VIR_DOMAIN_NOSTATE: return DomainState::inactive;
    case VIR_DOMAIN_PAUSED:
    case VIR_DOMAIN_PMSUSPENDED: return DomainState::paused;
    default: return DomainState::running;
  }
}

// A domain with the connection that it belongs to.
struct OpenDomain {
  ConnectHandle connection;
  DomainHandle handle;

  virDomain* get() const { return handle.get(); }
};

class LibvirtHypervisor final : public Hypervisor {
 public:
  explicit LibvirtHypervisor(std::string uri) : uri_(std::move(uri)) {}

  Result<HypervisorVersions> versions() override;
  Result<Domain> find_domain(const std::string& name_or_uuid) override;
  Result<std::vector<Domain>> list_domains() override;
  Result<std::string> secret_value(const ClusterAccess& access) override;

  Status start_mirror(const std::string& uuid, const std::string& disk, const MirrorOptions& options) override;
  Result<std::optional<MirrorProgress>> mirror_progress(const std::string& uuid, const std::string& disk) override;
  Status set_mirror_bandwidth(const std::string& uuid, const std::string& disk, std::uint64_t bytes_per_s) override;
  Status pivot_mirror(const std::string& uuid, const std::string& disk) override;
  Status cancel_mirror(const std::string& uuid, const std::string& disk) override;

  Status suspend(const std::string& uuid) override;
  Status resume(const std::string& uuid) override;
  Status insert_overlay(const std::string& uuid, const std::string& disk, const std::string& overlay_path) override;
  Status commit_overlay(const std::string& uuid, const std::string& disk) override;
  Status redefine_disk(const std::string& uuid, const std::string& disk, const ImageName& image,
                       const ClusterAccess& access) override;

  Result<DiskCounters> disk_counters(const std::string& uuid, const std::string& disk) override;
  Result<WriteLimit> write_limit(const std::string& uuid, const std::string& disk) override;
  Status set_write_limit(const std::string& uuid, const std::string& disk, const WriteLimit& limit) override;
  Status grow_disk(const std::string& uuid, const std::string& disk, std::uint64_t bytes) override;

 private:
  // All that calls libvirt does so below a SigpipeBlocked.
  //
  // The mutex covers only the pointer: libvirt's connection is thread-safe, and a slow call must not hold up
  // others.
  Result<ConnectHandle> connection();
  Result<OpenDomain> open_domain(const std::string& name_or_uuid);
  Result<Domain> describe(virDomain* domain, bool with_jobs);
  Status note_other_jobs(virDomain* domain, Domain& description);
  static Error no_disk(const std::string& domain, const std::string& disk);
  // The error of a call on a disk. libvirt has no code of its own for "no such disk": it says
  // VIR_ERR_INVALID_ARG.
  static Error disk_error(const OpenDomain& domain, const std::string& disk, std::string_view verb,
                          const LibvirtError& error = last_error());
  Result<std::string> live_xml(const OpenDomain& domain, const std::string& disk);
  Result<bool> has_copy_job(const OpenDomain& domain, const std::string& disk, virDomainBlockJobInfo& info);
  // 0 when it cannot be had.
  static std::uint64_t highest_written_bytes(const OpenDomain& domain, const std::string& disk);
  Status read_io_tune(const OpenDomain& domain, const std::string& disk, TypedParams& params);

  const std::string uri_;
  std::mutex mutex_;
  ConnectHandle connection_;
};

Result<ConnectHandle> LibvirtHypervisor::connection() {
  ConnectHandle current;
  {
    const std::lock_guard guard(mutex_);
    current = connection_;
  }
  // virConnectIsAlive() knows only what the last call met, and there is no keepalive: after a restart of
  // libvirtd it still says yes. So ask for something cheap first; it is the call that may be repeated.
  unsigned long version = 0;
  if (current && virConnectIsAlive(current.get()) == 1 && virConnectGetLibVersion(current.get(), &version) == 0) {
    return current;
  }
  auto fresh = own_connection(virConnectOpen(uri_.c_str()));
  if (!fresh) {
    auto error = last_error();
    const auto what = fmt::format("Cannot connect to libvirt at '{}'", uri_);
    if (error.code == VIR_ERR_SYSTEM_ERROR && (error.error_number == EACCES || error.error_number == EPERM)) {
      return Error{ErrorCode::denied, fmt::format("{}: {}", what, error.message),
                   "Run as root or as a member of the group libvirt."};
    }
    return make_error(error, what);
  }
  virConnSetErrorFunc(fresh.get(), nullptr, ignore_error);
  const std::lock_guard guard(mutex_);
  connection_ = fresh;
  return fresh;
}

Result<OpenDomain> LibvirtHypervisor::open_domain(const std::string& name_or_uuid) {
  auto connected = connection();
  if (!connected) return connected.error();
  OpenDomain domain{*connected, nullptr};
  domain.handle.reset(virDomainLookupByUUIDString(domain.connection.get(), name_or_uuid.c_str()));
  if (!domain.handle) domain.handle.reset(virDomainLookupByName(domain.connection.get(), name_or_uuid.c_str()));
  if (!domain.handle) return make_error(last_error(), fmt::format("Cannot find domain '{}'", name_or_uuid));
  return domain;
}

Error LibvirtHypervisor::no_disk(const std::string& domain, const std::string& disk) {
  return {ErrorCode::not_found, fmt::format("Domain '{}' has no disk '{}'", domain, disk),
          fmt::format("See its disks with 'virsh domblklist {}'.", domain)};
}

Error LibvirtHypervisor::disk_error(const OpenDomain& domain, const std::string& disk, std::string_view verb,
                                    const LibvirtError& error) {
  const std::string name = virDomainGetName(domain.get());
  if (error.code == VIR_ERR_INVALID_ARG) {
    const CString xml(virDomainGetXMLDesc(domain.get(), 0));
    const auto parsed = xml ? parse_domain_xml(xml.get()) : Error{};
    bool found = !parsed.ok();
    for (std::size_t at = 0; parsed.ok() && at < parsed->disks.size(); ++at) {
      found = found || parsed->disks[at].target == disk;
    }
    if (!found) return no_disk(name, disk);
  }
  return make_error(error, fmt::format("Cannot {} disk '{}' of domain '{}'", verb, disk, name));
}

Result<HypervisorVersions> LibvirtHypervisor::versions() {
  const SigpipeBlocked blocked;
  const auto connected = connection();
  if (!connected) return connected.error();
  unsigned long libvirt_version = 0;
  unsigned long hypervisor_version = 0;
  const CString uri(virConnectGetURI(connected->get()));
  if (!uri || virConnectGetLibVersion(connected->get(), &libvirt_version) != 0 ||
      virConnectGetVersion(connected->get(), &hypervisor_version) != 0) {
    return make_error(last_error(), fmt::format("Cannot get the versions of libvirt at '{}'", uri_));
  }
  return HypervisorVersions{version_text(libvirt_version), version_text(hypervisor_version), uri.get()};
}

// Jobs other than a copy and an active commit are not in the domain's XML.
Status LibvirtHypervisor::note_other_jobs(virDomain* domain, Domain& description) {
  for (auto& disk : description.disks) {
    virDomainBlockJobInfo info{};
    const int found =
        virDomainGetBlockJobInfo(domain, disk.target.c_str(), &info, VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES);
    if (found < 0) {
      return make_error(last_error(), fmt::format("Cannot look for block jobs of domain '{}'", description.name));
    }
    if (found <= 0 || info.type == VIR_DOMAIN_BLOCK_JOB_TYPE_COPY) continue;
    // At its end an active commit is told as an ordinary one.
    const bool ends = disk.commits && info.type == VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT;
    if (ends || info.type == VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT) {
      disk.commits = true;
    } else {
      disk.other_block_job = true;
    }
  }
  return {};
}

Result<Domain> LibvirtHypervisor::describe(virDomain* domain, bool with_jobs) {
  Domain description;
  // Made first: every libvirt call, virDomainGetName() too, resets the error of the one before.
  const auto what = fmt::format("Cannot read domain '{}'", virDomainGetName(domain));
  int state = 0;
  int reason = 0;
  const int persistent = virDomainIsPersistent(domain);
  if (persistent < 0 || virDomainGetState(domain, &state, &reason, 0) < 0) return make_error(last_error(), what);
  description.state = state_of(state);
  // on_crash=preserve: QEMU is still there and has the images open.
  if (state == VIR_DOMAIN_CRASHED && virDomainIsActive(domain) != 0) description.state = DomainState::paused;
  description.persistent = persistent == 1;
  const CString xml(virDomainGetXMLDesc(domain, 0));
  if (!xml) return make_error(last_error(), what);
  auto parsed = parse_domain_xml(xml.get());
  if (!parsed) return parsed.error();
  description.uuid = std::move(parsed->uuid);
  description.name = std::move(parsed->name);
  description.of_openstack = is_openstack(*parsed);
  description.disks = std::move(parsed->disks);
  // After the live XML: when libvirt ends a pivot between the two, the live one still shows the copy, which
  // sends the caller back to look again. The other way round it would look like a pivot that did not change
  // the definition.
  if (description.persistent) {
    const CString inactive(virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE));
    if (!inactive) return make_error(last_error(), what);
    auto persistent_parsed = parse_domain_xml(inactive.get());
    if (!persistent_parsed) return persistent_parsed.error();
    description.persistent_disks = std::move(persistent_parsed->disks);
  }
  if (!is_active(description)) {
    const int saved = virDomainHasManagedSaveImage(domain, 0);
    if (saved < 0) return make_error(last_error(), what);
    description.has_saved_state = saved == 1;
  }
  if (with_jobs && is_active(description)) {
    if (auto noted = note_other_jobs(domain, description); !noted) {
      // The domain may have stopped meanwhile; then it has no jobs.
      if (virDomainIsActive(domain) != 0) return noted.error();
      description.state = DomainState::inactive;
    }
  }
  return description;
}

Result<Domain> LibvirtHypervisor::find_domain(const std::string& name_or_uuid) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(name_or_uuid);
  if (!domain) return domain.error();
  return describe(domain->get(), true);
}

Result<std::vector<Domain>> LibvirtHypervisor::list_domains() {
  const SigpipeBlocked blocked;
  const auto connected = connection();
  if (!connected) return connected.error();
  virDomainPtr* raw = nullptr;
  const int count = virConnectListAllDomains(connected->get(), &raw, 0);
  if (count < 0) return make_error(last_error(), "Cannot list the domains");
  const std::unique_ptr<virDomainPtr, FreeDeleter> array(raw);
  std::vector<DomainHandle> handles;
  for (int at = 0; at < count; ++at) handles.emplace_back(raw[at]);
  std::vector<Domain> domains;
  for (const auto& handle : handles) {
    auto description = describe(handle.get(), false);
    if (!description && description.error().code == ErrorCode::not_found) continue;  // gone since it was listed
    if (!description) return description.error();
    domains.push_back(std::move(*description));
  }
  return domains;
}

Result<std::string> LibvirtHypervisor::secret_value(const ClusterAccess& access) {
  const SigpipeBlocked blocked;
  const auto connected = connection();
  if (!connected) return connected.error();
  const bool by_uuid = !access.secret_uuid.empty();
  const auto& name = by_uuid ? access.secret_uuid : access.secret_usage;
  const SecretHandle secret(by_uuid
                                ? virSecretLookupByUUIDString(connected->get(), name.c_str())
                                : virSecretLookupByUsage(connected->get(), VIR_SECRET_USAGE_TYPE_CEPH, name.c_str()));
  std::size_t size = 0;
  unsigned char* bytes = secret ? virSecretGetValue(secret.get(), &size, 0) : nullptr;
  const SecretBytes value(bytes, size);
  if (value) return base64(value.data(), value.size());

  const auto error = last_error();
  const auto what = fmt::format("Cannot get the value of the libvirt secret '{}'", name);
  // A private secret says VIR_ERR_INVALID_SECRET; one that has no value yet VIR_ERR_NO_SECRET.
  if (error.code == VIR_ERR_INVALID_SECRET) {
    return Error{ErrorCode::denied, fmt::format("{}: {}", what, error.message),
                 "The secret is private: name a Ceph configuration file with a keyring instead, or define the secret "
                 "with private='no'."};
  }
  auto made = make_error(error, what);
  if (made.code == ErrorCode::not_found) made.advice = "Check it with 'virsh secret-list' and set its value.";
  return made;
}

Result<std::string> LibvirtHypervisor::live_xml(const OpenDomain& domain, const std::string& disk) {
  const CString xml(virDomainGetXMLDesc(domain.get(), 0));
  if (!xml) return disk_error(domain, disk, "read");
  return std::string(xml.get());
}

Status LibvirtHypervisor::start_mirror(const std::string& uuid, const std::string& disk, const MirrorOptions& options) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  const auto live = live_xml(*domain, disk);
  if (!live) return live.error();

  TypedParams params;
  bool added = true;
  if (options.bandwidth_bytes_per_s != 0) {
    added = params.add(VIR_DOMAIN_BLOCK_COPY_BANDWIDTH, static_cast<unsigned long long>(options.bandwidth_bytes_per_s));
  }
  if (added && options.granularity_bytes != 0) {
    added = params.add(VIR_DOMAIN_BLOCK_COPY_GRANULARITY, static_cast<unsigned int>(options.granularity_bytes));
  }
  if (added && options.buffer_bytes != 0) {
    added = params.add(VIR_DOMAIN_BLOCK_COPY_BUF_SIZE, static_cast<unsigned long long>(options.buffer_bytes));
  }
  if (!added) return disk_error(*domain, disk, "copy");

  unsigned int flags = VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
  if (options.shallow) flags |= VIR_DOMAIN_BLOCK_COPY_SHALLOW;
  const auto xml = mirror_target_xml(options, conf_path_below(*live, disk));
  if (virDomainBlockCopy(domain->get(), disk.c_str(), xml.c_str(), params.data(), params.size(), flags) != 0) {
    return disk_error(*domain, disk, fmt::format("start the copy to '{}' of", to_string(options.target)));
  }
  return {};
}

Result<bool> LibvirtHypervisor::has_copy_job(const OpenDomain& domain, const std::string& disk,
                                             virDomainBlockJobInfo& info) {
  // In MiB/s, the default unit, a speed that is no whole number of them would be an error.
  const int found =
      virDomainGetBlockJobInfo(domain.get(), disk.c_str(), &info, VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES);
  if (found < 0) return disk_error(domain, disk, "ask for the block job of");
  return found > 0 && info.type == VIR_DOMAIN_BLOCK_JOB_TYPE_COPY;
}

Result<std::optional<MirrorProgress>> LibvirtHypervisor::mirror_progress(const std::string& uuid,
                                                                         const std::string& disk) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  virDomainBlockJobInfo info{};
  const auto copying = has_copy_job(*domain, disk, info);
  if (!copying) return copying.error();
  if (!*copying) return std::optional<MirrorProgress>();
  MirrorProgress progress;
  progress.copied_bytes = info.cur;
  progress.total_bytes = info.end;
  progress.highest_written_bytes = highest_written_bytes(*domain, disk);
  return std::optional(progress);
}

std::uint64_t LibvirtHypervisor::highest_written_bytes(const OpenDomain& domain, const std::string& disk) {
  const CString xml(virDomainGetXMLDesc(domain.get(), 0));
  const auto index = xml ? mirror_source_index(xml.get(), disk) : std::nullopt;
  if (!index) return 0;
  virDomainPtr domains[] = {domain.get(), nullptr};
  virDomainStatsRecordPtr* raw = nullptr;
  // NOWAIT: a domain that another call holds up is no reason to wait for a number that is only nice to have.
  if (virDomainListGetStats(domains, VIR_DOMAIN_STATS_BLOCK, &raw,
                            VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING | VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT) < 1) {
    return 0;
  }
  const StatsRecords records(raw);
  // Among the records of the disk, all named alike, the one of the copy's target has the index of <mirror>'s
  // source; its allocation is QEMU's wr_highest_offset (libvirt 9.0: block.1.name=vda,
  // block.1.backingIndex=2). While QEMU zeroes the target the job's cur and end are both 0, and this grows in
  // steps of 2 GiB.
  const virDomainStatsRecord& record = *raw[0];
  const auto count = typed_number(record.params, record.nparams, "block.count");
  for (unsigned long long at = 0; at < count; ++at) {
    const auto key = [&](const char* name) { return fmt::format("block.{}.{}", at, name); };
    if (typed_text(record.params, record.nparams, key("name").c_str()) == disk &&
        typed_number(record.params, record.nparams, key("backingIndex").c_str()) == *index) {
      return typed_number(record.params, record.nparams, key("allocation").c_str());
    }
  }
  return 0;
}

Status LibvirtHypervisor::set_mirror_bandwidth(const std::string& uuid, const std::string& disk,
                                               std::uint64_t bytes_per_s) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  if (virDomainBlockJobSetSpeed(domain->get(), disk.c_str(), static_cast<unsigned long>(bytes_per_s),
                                VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES) != 0) {
    return disk_error(*domain, disk, "set the speed of the copy of");
  }
  return {};
}

Status LibvirtHypervisor::pivot_mirror(const std::string& uuid, const std::string& disk) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  // Without ASYNC the call lasts until QEMU has switched; one that is cut off then leaves the same question
  // open.
  if (virDomainBlockJobAbort(domain->get(), disk.c_str(),
                             VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT | VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC) != 0) {
    const auto reason = last_error();
    auto error = disk_error(*domain, disk, "switch to the copy of", reason);
    if (reason.code == VIR_ERR_BLOCK_COPY_ACTIVE) {
      error.code = ErrorCode::failed;
      error.advice = "Wait until the domain's XML shows the mirror as ready.";
    }
    return error;
  }
  return {};
}

Status LibvirtHypervisor::cancel_mirror(const std::string& uuid, const std::string& disk) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  virDomainBlockJobInfo info{};
  const auto copying = has_copy_job(*domain, disk, info);
  if (!copying) return copying.error();
  if (!*copying) return {};
  if (virDomainBlockJobAbort(domain->get(), disk.c_str(), VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC) != 0) {
    const auto error = disk_error(*domain, disk, "cancel the copy of");
    const auto still = has_copy_job(*domain, disk, info);
    if (still.ok() && !*still) return {};  // it ended between the two calls
    return error;
  }
  return {};
}

Status LibvirtHypervisor::suspend(const std::string& uuid) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  if (virDomainSuspend(domain->get()) == 0) return {};
  const auto error = last_error();
  // A guest that put itself to sleep cannot be suspended; it does not write either.
  int state = 0;
  int reason = 0;
  if (virDomainGetState(domain->get(), &state, &reason, 0) == 0 && state_of(state) == DomainState::paused) return {};
  return make_error(error, fmt::format("Cannot suspend domain '{}'", virDomainGetName(domain->get())));
}

Status LibvirtHypervisor::resume(const std::string& uuid) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  if (virDomainResume(domain->get()) == 0) return {};
  const auto error = last_error();
  int state = 0;
  int reason = 0;
  if (virDomainGetState(domain->get(), &state, &reason, 0) == 0 && state_of(state) == DomainState::running) return {};
  return make_error(error, fmt::format("Cannot resume domain '{}'", virDomainGetName(domain->get())));
}

Status LibvirtHypervisor::insert_overlay(const std::string& uuid, const std::string& disk,
                                         const std::string& overlay_path) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  const auto live = live_xml(*domain, disk);
  if (!live) return live.error();
  const auto parsed = parse_domain_xml(*live);
  if (!parsed) return parsed.error();
  std::vector<std::string> targets;
  for (const auto& candidate : parsed->disks) targets.push_back(candidate.target);
  if (std::find(targets.begin(), targets.end(), disk) == targets.end()) return no_disk(parsed->name, disk);
  constexpr unsigned int kFlags = VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA |
                                  VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC | VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT;
  const SnapshotHandle snapshot(
      virDomainSnapshotCreateXML(domain->get(), overlay_xml(targets, disk, overlay_path).c_str(), kFlags));
  if (!snapshot) return disk_error(*domain, disk, fmt::format("put the overlay '{}' on", overlay_path));
  return {};
}

Status LibvirtHypervisor::commit_overlay(const std::string& uuid, const std::string& disk) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  const auto live = live_xml(*domain, disk);
  if (!live) return live.error();
  const auto parsed = parse_domain_xml(*live);
  if (!parsed) return parsed.error();
  const auto found = std::find_if(parsed->disks.begin(), parsed->disks.end(),
                                  [&](const auto& candidate) { return candidate.target == disk; });
  if (found == parsed->disks.end()) return no_disk(parsed->name, disk);
  if (!found->has_overlay) return {};

  const auto state = commit_state(*live, disk);
  if (state == CommitState::under_way) return {};
  if (state == CommitState::ready) {
    if (virDomainBlockJobAbort(domain->get(), disk.c_str(),
                               VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT | VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC) != 0) {
      return disk_error(*domain, disk, "take the overlay off");
    }
    return {};
  }
  virDomainBlockJobInfo info{};
  const int job =
      virDomainGetBlockJobInfo(domain->get(), disk.c_str(), &info, VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES);
  if (job < 0) return disk_error(*domain, disk, "ask for the block job of");
  if (job > 0 && info.type == VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT) return {};  // not in the XML yet
  if (job > 0 || found->mirror) {
    return Error{ErrorCode::busy,
                 fmt::format("Cannot commit the overlay of disk '{}' of domain '{}': a block job is under way", disk,
                             parsed->name),
                 fmt::format("Wait for it or cancel it; 'virsh blockjob {} {}' shows it.", parsed->name, disk)};
  }
  if (virDomainBlockCommit(domain->get(), disk.c_str(), nullptr, nullptr, 0,
                           VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | VIR_DOMAIN_BLOCK_COMMIT_SHALLOW) != 0) {
    return disk_error(*domain, disk, "commit the overlay of");
  }
  return {};
}

Status LibvirtHypervisor::redefine_disk(const std::string& uuid, const std::string& disk, const ImageName& image,
                                        const ClusterAccess& access) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  // SECURE: the disk's source may have secrets of its own.
  const CString xml(virDomainGetXMLDesc(domain->get(), VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE));
  if (!xml) return disk_error(*domain, disk, "read");
  const auto redefined = redefined_disk_xml(xml.get(), disk, image, access);
  if (!redefined) return redefined.error();
  // Not virDomainDefineXML(): what somebody else changes in the definition meanwhile would be lost.
  if (virDomainUpdateDeviceFlags(domain->get(), redefined->c_str(), VIR_DOMAIN_AFFECT_CONFIG) != 0) {
    return disk_error(*domain, disk, "redefine");
  }
  return {};
}

Result<DiskCounters> LibvirtHypervisor::disk_counters(const std::string& uuid, const std::string& disk) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  int count = 0;
  if (virDomainBlockStatsFlags(domain->get(), disk.c_str(), nullptr, &count, 0) != 0) {
    return disk_error(*domain, disk, "read the counters of");
  }
  TypedParams params;
  if (!params.reserve(count)) return Error{ErrorCode::failed, "Out of memory", "Free some memory."};
  *params.size_slot() = count;
  if (virDomainBlockStatsFlags(domain->get(), disk.c_str(), params.data(), params.size_slot(), 0) != 0) {
    return disk_error(*domain, disk, "read the counters of");
  }
  DiskCounters counters;
  counters.written_bytes = params.number(VIR_DOMAIN_BLOCK_STATS_WRITE_BYTES);
  counters.write_requests = params.number(VIR_DOMAIN_BLOCK_STATS_WRITE_REQ);
  counters.write_time_ns = params.number(VIR_DOMAIN_BLOCK_STATS_WRITE_TOTAL_TIMES);
  return counters;
}

Status LibvirtHypervisor::read_io_tune(const OpenDomain& domain, const std::string& disk, TypedParams& params) {
  int count = 0;
  if (virDomainGetBlockIoTune(domain.get(), disk.c_str(), nullptr, &count, VIR_DOMAIN_AFFECT_LIVE) != 0) {
    return disk_error(domain, disk, "read the limits of");
  }
  if (!params.reserve(count)) return Error{ErrorCode::failed, "Out of memory", "Free some memory."};
  *params.size_slot() = count;
  if (virDomainGetBlockIoTune(domain.get(), disk.c_str(), params.data(), params.size_slot(), VIR_DOMAIN_AFFECT_LIVE) !=
      0) {
    return disk_error(domain, disk, "read the limits of");
  }
  return {};
}

Result<WriteLimit> LibvirtHypervisor::write_limit(const std::string& uuid, const std::string& disk) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  TypedParams params;
  POOLSHIFT_TRY(read_io_tune(*domain, disk, params));
  WriteLimit limit;
  limit.total_bytes_per_s = params.number(VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_BYTES_SEC);
  limit.write_bytes_per_s = params.number(VIR_DOMAIN_BLOCK_IOTUNE_WRITE_BYTES_SEC);
  return limit;
}

Status LibvirtHypervisor::set_write_limit(const std::string& uuid, const std::string& disk, const WriteLimit& limit) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  TypedParams now;
  POOLSHIFT_TRY(read_io_tune(*domain, disk, now));
  // libvirt sets the limits group by group: who gives write_bytes_sec alone resets read_bytes_sec, or is
  // refused when there is a read_bytes_sec_max. So all go back, except the group's name, which is kept when
  // it is not given.
  TypedParams changed;
  for (const auto& param : now) {
    if (param.type != VIR_TYPED_PARAM_ULLONG) continue;
    const std::string_view name = param.field;
    unsigned long long value = param.value.ul;
    if (name == VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_BYTES_SEC) value = limit.total_bytes_per_s;
    if (name == VIR_DOMAIN_BLOCK_IOTUNE_WRITE_BYTES_SEC) value = limit.write_bytes_per_s;
    if (!changed.add(param.field, value)) return disk_error(*domain, disk, "set the limits of");
  }
  if (virDomainSetBlockIoTune(domain->get(), disk.c_str(), changed.data(), changed.size(), VIR_DOMAIN_AFFECT_LIVE) !=
      0) {
    return disk_error(*domain, disk, "set the limits of");
  }
  return {};
}

Status LibvirtHypervisor::grow_disk(const std::string& uuid, const std::string& disk, std::uint64_t bytes) {
  const SigpipeBlocked blocked;
  const auto domain = open_domain(uuid);
  if (!domain) return domain.error();
  if (virDomainBlockResize(domain->get(), disk.c_str(), bytes, VIR_DOMAIN_BLOCK_RESIZE_BYTES) != 0) {
    return disk_error(*domain, disk, "grow");
  }
  return {};
}

}  // namespace

std::unique_ptr<Hypervisor> make_libvirt_hypervisor(std::string uri) {
  return std::make_unique<LibvirtHypervisor>(std::move(uri));
}

void silence_libvirt_errors() { virSetErrorFunc(nullptr, ignore_error); }

}  // namespace poolshift
