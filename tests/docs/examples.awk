# The examples of a document, one line each, fields separated by tabs:
#
#   command  LINE  BLOCK  the command, with lines that end in a backslash joined
#   file     LINE  BLOCK  NAME, the path that the paragraph before the block names; then one line `text` for each of its lines
#
# In a manual page (*.rst) these are the literal blocks of the sections EXAMPLE, EXAMPLES, METADATA and A STUCK SWAP; in a
# document (*.md) all code blocks but those that say "```text", which are output. A block that begins with { is a file, one
# that begins with #include the file program.c, one that begins with "NAME = " the file poolshift.conf.
# A command of poolshift in a literal block of another section of a page is an error: nobody would try it.

function flush_command() {
  if (command != "") print "command\t" command_line "\t" block "\t" command
  command = ""
}
function begin_block() {
  ++block
  is_file = 0
  at_start = 1
}
function take(line) {
  if (at_start) {
    at_start = 0
    if (line ~ /^#include/) {
      is_file = 1
      print "file\t" FNR "\t" block "\tprogram.c"
    } else if (line ~ /^[a-z-]+ = /) {
      is_file = 1
      print "file\t" FNR "\t" block "\tpoolshift.conf"
    } else if (line ~ /^[{]/) {
      is_file = 1
      name = paragraph
      if (!sub(/.*[* `(]\/etc\//, "/etc/", name)) {
        print FILENAME ":" FNR ": no paragraph before this file names its path" >"/dev/stderr"
        failed = 1
      }
      sub(/[*`),: ].*/, "", name)
      print "file\t" FNR "\t" block "\t" name
    }
  }
  if (is_file) {
    print "text\t" FNR "\t" block "\t" line
    return
  }
  if (line ~ /^[ \t]*(#|$)/) return
  if (command == "") command_line = FNR
  if (line ~ /\\$/) {
    sub(/[ \t]*\\$/, " ", line)
    command = command line
    return
  }
  command = command line
  flush_command()
}
# A line of a literal block, without its indent.
function take_in_page(line) {
  if (is_wanted(section)) take(line)
  else if (line ~ /^(sudo )?poolshift /) {
    print FILENAME ":" FNR ": a command outside the sections whose examples are tried" >"/dev/stderr"
    failed = 1
  }
}
function is_wanted(title) {
  return title == "EXAMPLE" || title == "EXAMPLES" || title == "METADATA" || title == "A STUCK SWAP"
}
function reset() {
  in_block = fenced = expects_block = 0
  paragraph = previous = section = ""
}

FNR == 1 {
  flush_command()
  reset()
  is_page = FILENAME ~ /\.rst$/
}

# --- manual pages
is_page {
  if ($0 ~ /^===+$/ && previous != "" && previous !~ /^[ =]/) section = previous
  if (in_block) {
    if ($0 ~ /^[ \t]+[^ \t]/ || $0 ~ /^$/) {
      line = $0
      sub("^" indent, "", line)
      take_in_page(line)
      previous = $0
      next
    }
    in_block = 0
    flush_command()
  }
  if (expects_block && $0 ~ /^[ \t]+[^ \t]/) {
    expects_block = 0
    in_block = 1
    match($0, /^[ \t]+/)
    indent = substr($0, 1, RLENGTH)
    begin_block()
    take_in_page(substr($0, RLENGTH + 1))
    previous = $0
    next
  }
  if ($0 != "") expects_block = 0
  if ($0 ~ /::$/) expects_block = 1
  if (previous == "" && $0 != "") paragraph = ""
  if ($0 != "") paragraph = paragraph " " $0
  previous = $0
  next
}

# --- documents
/^```/ {
  if (fenced) {
    fenced = 0
    flush_command()
  } else {
    fenced = 1
    is_output = $0 == "```text"
    if ($0 !~ /^```(sh|json|text|c)$/) {
      print FILENAME ":" FNR ": a block is one of ```sh, ```json, ```text" >"/dev/stderr"
      failed = 1
    }
    begin_block()
  }
  previous = $0
  next
}
fenced {
  if (!is_output) take($0)
  next
}
/^    +[^ ]/ && (in_block || previous == "") {
  if (!in_block) begin_block()
  in_block = 1
  line = substr($0, 5)
  take(line)
  previous = $0
  next
}
$0 != "" {
  if (in_block) flush_command()
  in_block = 0
  if (previous == "") paragraph = ""
  paragraph = paragraph " " $0
}
{ previous = $0 }

END {
  flush_command()
  exit failed
}
