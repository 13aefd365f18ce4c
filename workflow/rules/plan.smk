# Plans, suite.json and the list of manifests are inputs, not outputs: as a rule's output even an identical rewrite
# would re-run everything behind it. They are written here, while the workflow is parsed, where their content differs. A
# job that an executor starts elsewhere parses the workflow too; it finds them, unless it shares no file system.
from moelora.files import write_if_different

if workflow.is_main_process or not os.path.exists(MANIFESTS):
    try:
        EXPANSION.write(ROOT)
        write_if_different(MANIFESTS, "".join(f"{path}\n" for path in get_manifests()))
    except MoeloraError as error:
        raise WorkflowError(str(error)) from None
