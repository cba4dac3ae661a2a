"""The sbatch script that runs a recipe on the nodes of a Slurm cluster: one agent on each, and a rendezvous."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class SlurmJob:
    """What goes into the script. `command`: the verb with all that is the same on every node; `cpus`: of each node,
    None for all of it; `rendezvous`: HOST:PORT of one that runs already, or None for one in the batch step, which is on
    the first of the nodes; `options`: of sbatch, as on its command line."""

    name: str
    summary: str
    command: list[str]
    nodes: int
    gpus: int
    cpus: int | None
    rendezvous: str | None
    options: dict[str, str]


# Slurm signals the steps of a job, which are the agents, and not the batch shell. They end with 130 then, or with 143
# where nothing was being trained.
_SCRIPT = """\
#!/bin/bash
# {summary}
# Written by `groundup launch slurm`. Send it off with: sbatch FILE
{directives}
set -u

{meeting}

{cpus}# shellcheck disable=SC2016 # each task has its own SLURM_NODEID
srun --kill-on-bad-exit=1 --cpu-bind=none bash -c 'exec "$@" --node-rank "$SLURM_NODEID"' agent \\
  {command} \\
  --nodes "$SLURM_NNODES" --rendezvous "$place"
code=$?

# Stopped by a signal, with all saved: the job goes on from there once it gets nodes again.
if [ "$code" -eq 130 ] || [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


_OWN_MEETING = """\
# Where the agents meet. The port depends on the job, so that two jobs can share a node.
place="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((29400 + SLURM_JOB_ID % 1000))"
{groundup} rendezvous --host any --port "${{place##*:}}" &
trap 'kill "$!"' EXIT
"""


def script(job: SlurmJob) -> str:
    """The text of the script."""
    given = {
        "job-name": job.name,
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        **({"gpus-per-node": str(job.gpus)} if job.gpus else {}),
        **({"cpus-per-task": str(job.cpus)} if job.cpus else {"exclusive": ""}),
        **job.options,
        "output": "%x-%j.log",
        "open-mode": "append",
        "signal": "TERM@120",
        "requeue": "",
    }
    directives = [f"#SBATCH --{name}" + (f"={value}" if value else "") for name, value in given.items()]
    program, *words = job.command
    return _SCRIPT.format(
        summary=job.summary,
        directives="\n".join(directives),
        meeting=_OWN_MEETING.format(groundup=program)
        if job.rendezvous is None
        else f"# Where the agents meet.\nplace={shlex.quote(job.rendezvous)}\n",
        cpus='export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"\n' if job.cpus else "",
        command=" ".join([program, *map(shlex.quote, words)]),
    )
