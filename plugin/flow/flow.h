// READ FIRST. A swap, from the request to the report. The steps are declared in the order in which they run; each is
// in the file of its name. engine/run.cpp runs them; engine/transitions.h says which phase may follow which.
//
//   request ──► validate ──► prepare ──► copy ──► pivot ──► retire ──► done
//                  │            │          │ ▲      │         │
//               refused         │          │ └──────┤         └──► held_on_target
//             (no journal)      ▼          ▼        │
//                             undo ◄───────┴────────┤ only with proof that the guest never left the source
//                               │                   │
//                    undone ◄───┴──► held_on_source └──► held_unknown
//
//   phase      does                                                              guest on    durable before it acts
//   request    text to a SwapRequest; unknown keys are errors                    source      nothing
//   validate   reads only; each check: pass, warn or refuse, evidence, advice    source      nothing
//   prepare    target created or tagged, made the source's size                  source      journal
//   copy       block copy, followed until libvirt's XML says ready='yes'         source      journal, tag on the target
//   pivot      the guest is switched; proven by XML and the images' watchers     -           journal
//   retire     source without watcher; target grown, made thin; source put away  target      journal
//   undo       copy cancelled; target given back as it was, or to the trash      source      journal
//
// Rules that hold in every step:
//   1. Record the intent, act, verify, record the result. Any step may be run twice: it looks before it acts.
//   2. Believe the hypervisor and the cluster, not the notes. A copy that vanished is not a success; cur == end is not
//      ready.
//   3. `unreachable` means: wait, look again (recover.h), go on from what is seen. Nothing is guessed meanwhile.
//   4. Nothing is ever deleted. Undo moves only images that carry our job's tag, which no XML names and no client
//      watches, and only to the trash.
#pragma once

#include "base/result.h"
#include "engine/swap.h"
#include "engine/transitions.h"
#include "flow/recover.h"
#include "flow/request.h"
#include "flow/validate.h"

namespace poolshift {

// Each returns the phase that follows, or the error that ends or delays the swap.
Result<Phase> prepare(Swap& swap);
Result<Phase> copy_mirror(Swap& swap);
Result<Phase> pivot(Swap& swap);
Result<Phase> retire(Swap& swap);
Result<Phase> undo(Swap& swap);

}  // namespace poolshift
