// What the command reads and writes, without the library behind it.
#include "text.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "build_tree.h"
#include "child.h"
#include "document.h"
#include "options.h"
#include "progress.h"
#include "sizes.h"
#include "summary.h"
#include "table.h"

using namespace poolshift::cli;  // NOLINT(google-build-using-namespace)

namespace {

const Document kCopying =
    Document::parse(R"({"schema":1,"job":"0123456789ab","phase":"copy","state":"open","running":true,
  "guest_on":"source","domain":"web1","disk":"vda","source":"hdd/web1","target":"ssd/web1","started_wall_ms":1000000,
  "progress":{"step":"copying","done_bytes":1073741824,"total_bytes":4294967296,"bytes_per_s":52428800,"left_s":61}})");

const Document kDone = Document::parse(R"({"schema":1,"job":"0123456789ab","state":"done","guest_on":"target",
  "engine":"mirror","domain":"web1","disk":"vda","source":"hdd/web1","target":"ssd/web1",
  "bytes":{"virtual":4294967296,"source_used":1073741824,"target_used":1073741824,"copied":1100000000},
  "seconds":{"validate":0.1,"prepare":0.2,"copy":4.8,"pivot":0.3,"retire":0.1,"undo":0,"pause":0,"total":5.5},
  "convergence":"none needed","notes":[],"checks":[],"error":null})");

Document with(Document document, const char* key, const Document& value) {
  document[key] = value;
  return document;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

int nothing(const Options&) { return 0; }

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string folder = (std::filesystem::temp_directory_path() / "poolshift-text.XXXXXX").string();
    if (mkdtemp(folder.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = folder;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A configuration file of these tests alone: that of this machine is none of their business.
class ConfigFile {
 public:
  ConfigFile() {
    set("");
    setenv("POOLSHIFT_CONFIG", path().c_str(), 1);
  }

  void set(const std::string& text) const { std::ofstream(path(), std::ios::trunc) << text; }

 private:
  std::filesystem::path path() const { return folder_.path() / "poolshift.conf"; }
  TemporaryFolder folder_;
};
const ConfigFile config_file;

const Command kSwap{"swap", "ARGUMENTS", "", "", request_options, JobArgument::none, true, nothing};
const Command kStatus{"status", "[JOB]", "", "", status_options, JobArgument::optional, false, nothing};
const Command kCancel{"cancel", "JOB", "", "", json_options, JobArgument::required, false, nothing};

std::vector<std::string> swap_words(std::vector<std::string> more) {
  more.insert(more.begin(), {"--domain", "web1", "--disk", "vda", "--to", "ssd/web1"});
  return more;
}

std::string usage_message(const Command& command, const std::vector<std::string>& words) {
  const auto options = parse_options(command, words);
  if (options) return "";
  CHECK(options.failure().exit_code == POOLSHIFT_USAGE);
  CHECK_FALSE(options.failure().advice.empty());
  return options.failure().message;
}

}  // namespace

TEST_CASE("bandwidths are powers of 1024") {
  CHECK(*parse_bandwidth("0") == 0);
  CHECK(*parse_bandwidth("0K") == 0);
  CHECK(*parse_bandwidth("1024") == 1024);
  CHECK(*parse_bandwidth("800K") == 819200);
  CHECK(*parse_bandwidth("50M") == 52428800);
  CHECK(*parse_bandwidth("50m") == 52428800);
  CHECK(*parse_bandwidth("1.5G") == 1610612736);
  CHECK(*parse_bandwidth("0.5K") == 512);
  CHECK(*parse_bandwidth("9223372036854775807") == 9223372036854775807U);
  CHECK(*parse_bandwidth("8589934591G") == 9223372035781033984U);
}

TEST_CASE("rubbish is not a bandwidth") {
  const auto* word = GENERATE("", " ", "M", "-1", "+1", " 1", "1 M", "1MB", "1MiB", "1T", "0x10", "1e3", "1.5", ".5G",
                              "5.G", "1.2.3M", "5x", "50M ", "1,5G", "0.0000000001G", "inf", "9223372036854775808",
                              "8589934592G", "99999999999999999999999999", "0.0001K", "0.0009765K");
  CAPTURE(word);
  CHECK_FALSE(parse_bandwidth(word));
}

TEST_CASE("quantities as people read them") {
  CHECK(format_bytes(0) == "0 bytes");
  CHECK(format_bytes(1023) == "1023 bytes");
  CHECK(format_bytes(1024) == "1.0 KiB");
  CHECK(format_bytes(1048575) == "1.0 MiB");
  CHECK(format_bytes(1610612736) == "1.5 GiB");
  CHECK(format_rate(52428800) == "52.4 MB/s");
  CHECK(format_clock(14.4) == "0:14");
  CHECK(format_clock(3723) == "1:02:03");
  CHECK(format_clock(-5) == "0:00");
  CHECK(format_seconds(0.0412) == "0.041 s");
  CHECK(format_seconds(5.25) == "5.2 s");
  CHECK(format_seconds(200) == "3 min 20 s");
  CHECK(format_seconds(7260) == "2 h 1 min");
  CHECK(format_age(-1) == "0s");
  CHECK(format_age(86400 * 12) == "12d");
}

TEST_CASE("UTF-8 is told from what looks like it") {
  CHECK(is_utf8(""));
  CHECK(is_utf8("plain"));
  CHECK(is_utf8("\xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\x99"));
  CHECK_FALSE(is_utf8("\xff"));
  CHECK_FALSE(is_utf8("\x80"));
  CHECK_FALSE(is_utf8("\xc3"));              // cut off
  CHECK_FALSE(is_utf8("\xc0\xaf"));          // overlong '/'
  CHECK_FALSE(is_utf8("\xed\xa0\x80"));      // a surrogate
  CHECK_FALSE(is_utf8("\xf4\x90\x80\x80"));  // above U+10FFFF
}

TEST_CASE("text from outside cannot steer the terminal") {
  CHECK(printable("a\x1b[2Jb\n\x7f") == "a?[2Jb??");
  CHECK(printable("\xc2\x9b"
                  "2J") == "?2J");
  CHECK(printable("\xc3\xa4") == "\xc3\xa4");
}

TEST_CASE("text is cut and broken by columns, not by bytes") {
  CHECK(display_width("\xc3\xa4\xc3\xb6") == 2);
  CHECK(clipped("\xc3\xa4\xc3\xb6\xc3\xbc", 3) == "\xc3\xa4\xc3\xb6\xc3\xbc");
  CHECK(clipped("\xc3\xa4\xc3\xb6\xc3\xbc", 2) == "\xc3\xa4~");
  CHECK(clipped("abc", 0).empty());
  CHECK(wrapped("one two three", 8) == std::vector<std::string>{"one two", "three"});
  CHECK(wrapped("unbreakable", 4) == std::vector<std::string>{"unbreakable"});
  CHECK(wrapped("one two", 0) == std::vector<std::string>{"one two"});
}

TEST_CASE("near names are suggested, far ones are not") {
  const std::vector<std::string> names = {"swap", "status", "set", "recover"};
  CHECK(nearest("swpa", names) == "swap");
  CHECK(nearest("stat", names) == "status");
  CHECK(nearest("recvoer", names) == "recover");
  CHECK(nearest("frobnicate", names).empty());
  CHECK(nearest("x", names).empty());
}

TEST_CASE("advised commands can be pasted into a shell") {
  CHECK(shell_quoted("/var/lib/poolshift") == "/var/lib/poolshift");
  CHECK(shell_quoted("qemu+ssh://a/system?no_tty=1") == "'qemu+ssh://a/system?no_tty=1'");
  CHECK(shell_quoted("it's") == "'it'\\''s'");
  CHECK(shell_quoted("") == "''");
}

TEST_CASE("the guardian of a build tree is found, but not where another user may write") {
  const TemporaryFolder folder;
  const auto tree = folder.path() / "build";
  std::filesystem::create_directories(tree / "cli");
  std::filesystem::create_directories(tree / "guardian");
  const auto guardian = (tree / "guardian/poolshift-guardian").string();
  const auto program = (tree / "cli/poolshift").string();
  std::ofstream(guardian) << "a program";
  for (const auto& path : {tree.string(), (tree / "guardian").string(), guardian})
    REQUIRE(chmod(path.c_str(), 0755) == 0);
  CHECK(guardian_of_build_tree(program) == guardian);
  CHECK(guardian_of_build_tree((tree / "sbin/poolshift").string()).empty());
  for (const auto& path : {tree.string(), (tree / "guardian").string(), guardian}) {
    INFO(path);
    for (const mode_t mode : {0775, 0757}) {
      REQUIRE(chmod(path.c_str(), mode) == 0);
      CHECK(guardian_of_build_tree(program).empty());
    }
    REQUIRE(chmod(path.c_str(), 0755) == 0);
  }
  std::filesystem::rename(guardian, guardian + ".there");
  CHECK(guardian_of_build_tree(program).empty());
  std::filesystem::create_symlink(guardian + ".there", guardian);
  CHECK(guardian_of_build_tree(program).empty());
}

TEST_CASE("a program that closes its output and lives on is ended") {
  const auto late = output_of({"sh", "-c", "echo text; exec >&-; exec sleep 1000"}, "", 1);
  REQUIRE_FALSE(late);
  CHECK(contains(late.failure().message, "did not end within 1 s"));
  CHECK(*output_of({"sh", "-c", "cat; exec >&-; exit 0"}, "input", 60) == "input");
  CHECK(contains(output_of({"sh", "-c", "exit 3"}, "", 60).failure().message, "ended with 3"));
}

TEST_CASE("the bar fits every terminal") {
  for (std::size_t columns = 0; columns < 200; ++columns) {
    CAPTURE(columns);
    CHECK(display_width(render_bar(kCopying, columns)) <= columns);
  }
}

TEST_CASE("the bar drops what matters least first") {
  CHECK(render_bar(kCopying, 120) ==
        "copy   25 %  [=========>                            ]  1.0 GiB of 4.0 GiB  52.4 MB/s  1:01 left  "
        "copying");
  CHECK(render_bar(kCopying, 50) == "copy   25 %  [===>         ]  52.4 MB/s  1:01 left");
  CHECK(render_bar(kCopying, 40) == "copy   25 %  52.4 MB/s  1:01 left");
  CHECK(render_bar(kCopying, 25) == "copy   25 %  52.4 MB/s");
  CHECK(render_bar(kCopying, 15) == "copy   25 %");
  CHECK(render_bar(kCopying, 3) == "co~");
}

TEST_CASE("the bar shows what it knows") {
  CHECK(render_bar(with(kCopying, "progress", nullptr), 80) == "copy");
  CHECK(render_bar(Document(nullptr), 80) == "starting");
  auto unknown_left = kCopying;
  unknown_left["progress"]["left_s"] = -1;
  CHECK_FALSE(contains(render_bar(unknown_left, 80), "left"));
  auto unknown_rate = unknown_left;
  unknown_rate["progress"]["bytes_per_s"] = 0;
  CHECK_FALSE(contains(render_bar(unknown_rate, 80), "MB/s"));
  CHECK(render_line(unknown_rate) == "copy 25 %, 1.0 GiB of 4.0 GiB, copying");
  CHECK_FALSE(contains(job_details(unknown_rate, 1060, 0), "MB/s"));
  auto nothing_to_copy = kCopying;
  nothing_to_copy["progress"]["total_bytes"] = 0;
  CHECK_FALSE(contains(render_bar(nothing_to_copy, 80), "%"));
}

TEST_CASE("only what is complete has 100 per cent") {
  CHECK(*percent_of(Document::parse(R"({"done_bytes":999999,"total_bytes":1000000})")) == 99);
  CHECK(*percent_of(Document::parse(R"({"done_bytes":1000000,"total_bytes":1000000})")) == 100);
  CHECK(*percent_of(Document::parse(R"({"done_bytes":2000000,"total_bytes":1000000})")) == 100);
}

TEST_CASE("lines come for a phase, a tenth, or after a while") {
  LinePacer pacer;
  auto status = kCopying;
  CHECK(pacer.is_due(status, 100));
  CHECK_FALSE(pacer.is_due(status, 101));
  CHECK(pacer.is_due(status, 106));
  status["progress"]["done_bytes"] = 1400000000;
  CHECK(pacer.is_due(status, 106.2));
  status["phase"] = "pivot";
  CHECK(pacer.is_due(status, 106.4));
  CHECK_FALSE(pacer.is_due(status, 106.6));
}

TEST_CASE("a line has the same facts as the bar") {
  CHECK(render_line(kCopying) == "copy 25 %, 1.0 GiB of 4.0 GiB, 52.4 MB/s, 1:01 left, copying");
}

TEST_CASE("the summary of a swap that is done") {
  CHECK(summary_of(kDone, "", 0) ==
        "done: disk vda of web1: hdd/web1 -> ssd/web1\n"
        "  job 0123456789ab, engine mirror, 5.5 s (validate 0.100 s, prepare 0.200 s, copy 4.8 s, pivot "
        "0.300 s, "
        "retire 0.100 s)\n"
        "  1.0 GiB gone through; the target uses 1.0 GiB of 4.0 GiB, the source used 1.0 GiB\n"
        "  the guest was not paused\n"
        "  convergence: none needed\n"
        "  the guest is on: target\n");
}

TEST_CASE("the summary of a refusal has the refused checks and what to do") {
  auto report = with(kDone, "state", "refused");
  report["guest_on"] = "source";
  report["checks"] = Document::parse(R"([{"name":"domain_active","result":"pass","found":"it runs","do":""},
    {"name":"target_empty","result":"refuse","found":"image 'ssd/web1' holds 12 MiB","do":"Name an empty one."}])");
  CHECK(summary_of(report, "", 0) ==
        "refused, nothing was changed: disk vda of web1: hdd/web1 -> ssd/web1\n"
        "  target_empty: image 'ssd/web1' holds 12 MiB\n"
        "    do: Name an empty one.\n"
        "  the guest is on: source\n");
}

TEST_CASE("the summary of a held job says which command is next") {
  auto report = with(kDone, "state", "held");
  report["guest_on"] = "unknown";
  report["error"] = {{"message", "libvirtd does not answer"}, {"advice", "Start it."}};
  const auto text = summary_of(report, " --state-dir /x", 0);
  CHECK(contains(text, "libvirtd does not answer\n    do: Start it.\n"));
  CHECK(contains(text, "poolshift status 0123456789ab --state-dir /x\n"));
  CHECK(contains(text, "poolshift recover 0123456789ab --state-dir /x\n"));
  CHECK(contains(text, "the guest is on: unknown\n"));
}

TEST_CASE("reports with nothing in them are no reason to fail") {
  for (const auto* text :
       {"null", "{}", "[]", R"({"state":7,"job":null,"checks":{},"error":"x","seconds":[],"bytes":1})"}) {
    CAPTURE(text);
    const auto report = Document::parse(text);
    CHECK_FALSE(summary_of(report, "", 80).empty());
    CHECK_FALSE(check_text(report, 80).empty());
    CHECK_FALSE(jobs_table(Document::array({report}), 0, 80).empty());
    CHECK_FALSE(job_details(report, 0, 80).empty());
    CHECK_FALSE(render_bar(report, 80).empty());
  }
}

TEST_CASE("tables have aligned columns and break the last one") {
  Table table({"A", "BB", "C"});
  table.add({"\xc3\xa4\xc3\xb6\xc3\xbc", "x", "one two three four five six"});
  CHECK(table.render(0) == "A    BB  C\n\xc3\xa4\xc3\xb6\xc3\xbc  x   one two three four five six\n");
  CHECK(table.render(30) == "A    BB  C\n\xc3\xa4\xc3\xb6\xc3\xbc  x   one two three four\n         five six\n");
  CHECK(table.render(5) == table.render(0));
}

TEST_CASE("the jobs table") {
  const auto text = jobs_table(Document::array({kCopying, kDone}), 1060, 0);
  CHECK(contains(text, "0123456789ab  copy   source    25 %   60s  web1    vda   hdd/web1 -> ssd/web1\n"));
  CHECK(contains(text, "0123456789ab  done   target    100 %  -    web1    vda   hdd/web1 -> ssd/web1\n"));
}

TEST_CASE("options become a request") {
  const auto options = parse_options(kSwap, swap_words({"--from", "hdd/web1", "--create", "--engine=mirror",
                                                        "--bandwidth", "50M", "--source", "trash"}));
  REQUIRE(options);
  CHECK(request_document(*options) == Document::parse(R"({"schema":1,"domain":"web1","disk":"vda","target":"ssd/web1",
    "create":true,"engine":"mirror","hydrate":"auto","bandwidth_bytes_per_s":52428800,"source_after":"trash","source":"hdd/web1"})"));
}

TEST_CASE("what is not given has the documented default") {
  for (const char* variable : {"LIBVIRT_DEFAULT_URI", "CEPH_CONF", "POOLSHIFT_STATE_DIR"}) unsetenv(variable);
  const auto options = parse_options(kSwap, swap_words({}));
  REQUIRE(options);
  CHECK(request_document(*options) == Document::parse(R"({"schema":1,"domain":"web1","disk":"vda","target":"ssd/web1",
    "create":false,"engine":"auto","hydrate":"auto","bandwidth_bytes_per_s":0,"source_after":"keep"})"));
  CHECK(host_document(options->host) ==
        Document::parse(
            R"({"schema":1,"connect":"qemu:///system","state_dir":"/var/lib/poolshift","ceph_conf":"",
    "log_file":"","log_level":"info","log_journald":true,"owns_process":true})"));
}

TEST_CASE("options beat the environment, the environment beats the default") {
  setenv("LIBVIRT_DEFAULT_URI", "test:///default", 1);
  setenv("POOLSHIFT_STATE_DIR", "/from/environment", 1);
  setenv("CEPH_CONF", "/etc/ceph/other.conf", 1);
  const auto options = parse_options(kStatus, {"--state-dir", "/from/option", "-v", "--patience", "5"});
  for (const char* variable : {"LIBVIRT_DEFAULT_URI", "CEPH_CONF", "POOLSHIFT_STATE_DIR"}) unsetenv(variable);
  REQUIRE(options);
  CHECK(host_document(options->host) ==
        Document::parse(R"({"schema":1,"connect":"test:///default","state_dir":"/from/option",
    "ceph_conf":"/etc/ceph/other.conf","log_file":"-","log_level":"debug","log_journald":true,"owns_process":true,"patience_s":5})"));
  CHECK(options->host.as_given == " --state-dir /from/option");
}

TEST_CASE("the configuration file has defaults for what the command takes") {
  config_file.set(
      "engine = mirror\nsource=trash # comment\nbandwidth = 5K\nmax-pause = 1.5\npatience = 7\nparallel = 9\n"
      "hydrate = flatten\nmetrics-file = /x.prom\nnova-conf = /n\n");
  const auto swap = parse_options(kSwap, swap_words({"--source", "keep"}));
  const auto status = parse_options(kStatus, {});
  const Command set{"set", "JOB", "", "", set_options, JobArgument::required, false, nothing};
  const auto changes_nothing = parse_options(set, {"0123456789ab"});
  const Command drain{"drain", "", "", "", drain_options, JobArgument::none, false, nothing, true};
  const auto drains = parse_options(drain, {"--from", "a", "--to", "b", "--parallel", "2"});
  config_file.set("");
  REQUIRE(swap);
  CHECK(swap->request.engine == "mirror");
  CHECK(swap->request.hydrate == "flatten");
  CHECK(swap->request.source_after == "keep");
  CHECK(swap->request.max_pause_ms == 1500U);
  CHECK(swap->bandwidth_bytes_per_s == 5120U);
  CHECK(swap->host.patience_s == 7U);
  CHECK(swap->host.as_given.empty());
  CHECK(swap->metrics_file.empty());
  REQUIRE(status);
  CHECK(status->host.patience_s == 7U);
  CHECK_FALSE(status->bandwidth_bytes_per_s);
  REQUIRE(changes_nothing);
  CHECK_FALSE(changes_nothing->bandwidth_bytes_per_s);
  REQUIRE(drains);
  CHECK(drains->drain.engine == "mirror");
  CHECK(drains->drain.source_after == "trash");
  CHECK(drains->worker.parallel == 2);
  CHECK(drains->worker.attempts == 3);
}

TEST_CASE("usage errors name what was found") {
  CHECK(usage_message(kSwap, {}) == "'--domain' is missing");
  CHECK(usage_message(kSwap, swap_words({"extra"})) == "'extra' is one argument too many");
  CHECK(usage_message(kSwap, swap_words({"--bandwith", "5"})) == "there is no option '--bandwith'");
  CHECK(usage_message(kSwap, swap_words({"--band", "5"})) == "there is no option '--band'");
  CHECK(usage_message(kSwap, swap_words({"--bandwidth", "5x"})) ==
        "'--bandwidth': '5x' is not a number of bytes per second");
  CHECK(usage_message(kSwap, swap_words({"--bandwidth"})) == "'--bandwidth' needs a value, and none is given");
  CHECK(usage_message(kSwap, swap_words({"--create=yes"})) == "'--create' takes no value, but is given one");
  CHECK(usage_message(kSwap, swap_words({"--domain", "web2"})) == "'--domain' is given more than once");
  CHECK(usage_message(kSwap, swap_words({"--engine", "magic"})) ==
        "'--engine' is given 'magic', which it does not know");
  CHECK(usage_message(kSwap, {"--domain", "--disk", "vda"}) == "'--domain' needs a value, and is followed by '--disk'");
  CHECK(usage_message(kSwap, {"--domain", "", "--disk", "vda", "--to", "a/b"}) == "'--domain' is given an empty value");
  CHECK(usage_message(kSwap, {"--domain", "\xff"}) == "argument 2 after the command is not UTF-8");
  CHECK(usage_message(kSwap, swap_words({"--patience", "0"})) == "'--patience' is given '0'");
  CHECK(usage_message(kCancel, {}) == "no job is named");
  CHECK(usage_message(kCancel, {""}) == "the job's id is empty");
  CHECK(usage_message(kStatus, {"one", "two"}) == "'two' is one argument too many");
}
