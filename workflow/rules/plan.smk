# Plans, suite.json and the list of manifests are inputs, not outputs: as a rule's output even an identical rewrite
# would re-run everything behind it. They are written here, while the workflow is parsed, where their content differs.
# Whoever writes them has the turn in the suite's folder first, and keeps it: moelora/turns.py.
from moelora.errors import ConfigError, OutputError
from moelora.files import write_if_different

MANIFEST_LIST = "".join(f"{path}\n" for path in get_manifests())


def tell(sentence):
    """Say something to the person who started Snakemake, on stderr."""
    print(f"moelora: {sentence}", file=sys.stderr, flush=True)


def take_suite_turn():
    """Return the turn in the suite's folder, or ``None`` while another pipeline has it or nothing may be written."""
    try:
        turn = turns.take_turn(ROOT)
    except OutputError:
        return (
            None  # a folder to look at; plans that differ cannot be written and say so
        )
    if turn is None:
        refuse_changes()
    elif any(Path(".snakemake/locks").glob("*")):
        tell(
            f"nobody is at work on {ROOT}. If Snakemake says that the directory cannot be locked, a pipeline that was "
            "killed left its mark: say snakemake --unlock, and then the same command again"
        )
    return turn


def refuse_changes():
    """Say who has the turn, and refuse to change the plans beneath another pipeline."""
    other = turns.turn_holder(ROOT)
    for path, text in {
        **EXPANSION.documents(),
        layout.MANIFESTS: MANIFEST_LIST,
    }.items():
        file = Path(ROOT, path)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"another pipeline ({other}) is at work on {ROOT}, and this command would change its {path}; wait for "
                "it, or give this one a folder of its own with --config results=DIR reports=DIR"
            )
    tell(
        f"another pipeline ({other}) is at work on {ROOT}; until it ends this one can only look"
    )


def begin():
    """Let no job begin while another pipeline, or a job of a killed one, is at work on the suite."""
    global TURN
    try:
        for _ in range(20):  # a dry run has the turn too, for seconds
            TURN = TURN or turns.take_turn(ROOT)
            if TURN:
                break
            time.sleep(0.5)
        else:
            raise ConfigError(
                f"another pipeline ({turns.turn_holder(ROOT)}) is at work on {ROOT}; wait for it, or end it and say the "
                "same command again"
            )
        turns.hand_down(turns.wait_for_jobs(ROOT, tell))
    except MoeloraError as error:
        raise WorkflowError(str(error)) from None


TURN = None
# A job that an executor starts elsewhere parses the workflow too; it finds the plans, unless it shares no file system.
if workflow.is_main_process or not os.path.exists(MANIFESTS):
    try:
        TURN = take_suite_turn() if workflow.is_main_process else None
        EXPANSION.write(ROOT)
        write_if_different(MANIFESTS, MANIFEST_LIST)
    except MoeloraError as error:
        raise WorkflowError(str(error)) from None
