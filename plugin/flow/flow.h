// READ FIRST. A swap, from the request to the report. The steps are declared in the order in which they run; each is
// in the file of its name. engine/run.cpp runs them; engine/transitions.h says which phase may follow which.
//
//   engine mirror:    request ► validate ► prepare ► copy ► pivot ► retire ► done
//   engine handover:  request ► validate ► prepare ► pause ► pivot ► hydrate ► retire ► done
//                                   │         │        │       │        │        │
//                                refused      └───┬────┘       │        └───┬────┘
//                              (no journal)       ▼            │            ▼
//                                               undo ◄─────────┤      held_on_target
//                                                 │       only with proof that the guest never left the source
//                          undone ◄───────────────┴──► held_on_source, held_unknown
//
//   phase      does                                                              guest on    durable before it acts
//   request    text to a SwapRequest; unknown keys are errors                    source      nothing
//   validate   reads only; each check: pass, warn or refuse, evidence, advice    source      nothing
//   prepare    target created or tagged (mirror: made the source's size;         source      journal
//              handover: set aside, the clone takes its name)
//   copy       mirror: block copy, followed until the XML says ready='yes'       source      journal, tag on the target
//   pause      handover: guest suspended, source frozen, target made its clone   source      journal
//              offline: the definition names the target, which is hidden;
//              source frozen, its clone made
//   pivot      the guest is switched; proven by XML and the images' watchers     -           journal
//              offline: the clone gets the target's name
//   hydrate    handover: the running guest's target gets its data                target      journal, tag on the target
//   retire     source without watcher; target grown, made thin; source put away  target      journal
//   undo       copy cancelled; target given back as it was, or to the trash      source      journal
//
// A guest that is off (offline.cpp) is on the image that has all its writes, and from which it will start.
//
// Rules that hold in every step:
//   1. Record the intent, act, verify, record the result. Any step may be run twice: it looks before it acts.
//   2. Believe the hypervisor and the cluster, not the notes. A copy that vanished is not a success; cur == end is not
//      ready.
//   3. `unreachable` means: wait, look again (recover.h), go on from what is seen. Nothing is guessed meanwhile.
//   4. No data is ever deleted. What we put away carries our job's tag, is named by no XML and watched by no client,
//   and
//      goes to the trash; removed are only a clone that never got data of its own, and its snapshot.
//   5. A guest that we suspended runs again, whoever dies (guard.h).
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
Result<Phase> pause(Swap& swap);
Result<Phase> pause_offline(Swap& swap);
Result<Phase> pivot(Swap& swap);
Result<Phase> pivot_offline(Swap& swap);
Result<Phase> hydrate(Swap& swap);
Result<Phase> retire(Swap& swap);
Result<Phase> undo(Swap& swap);

}  // namespace poolshift
