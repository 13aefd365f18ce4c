# Contents page of the workflow. It says which runs there are, when and where they run; what a number is, is in moelora/.
#
#   snakemake --cores all                                                              the built-in suite
#   snakemake --cores all --configfile workflow/config/suites/glue-minilm.yaml         another suite
#   snakemake --cores all --config suite=glue-minilm 'tasks=[mrpc]'                    the same by name, one task of it
#
# `snakemake --lint` asks for a conda environment or container in every rule. The exception: all rules run in the
# environment that runs Snakemake (requirements.lock; environment.yml for conda), because torch a rule would be gigabytes.
# It also warns of the variable LAUNCH in the command of `train`: as a parameter it would train everything again whenever
# the number of processes changes, which changes no number beyond rounding.
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")
sys.path.insert(0, str(workflow.basedir))

from moelora.config import ConfigDir

CONFIG_DIR = ConfigDir(Path(workflow.basedir).joinpath("workflow", "config"))

# Snakemake merges config files deeply: loaded always, keys of the default suite would stay under those of another.
if not workflow.overwrite_configfiles:

    configfile: str(CONFIG_DIR.find("suite", config.get("suite", "tiny")))


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/placing.smk"
include: "workflow/rules/searching.smk"
include: "workflow/rules/requests.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/preflight.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/sensitivity.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/costs.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/report.smk"


# A method may bring a rule of its own; files are found by name, nothing lists them.
for method_rules in get_method_rules():

    include: method_rules


onstart:
    begin()


rule all:
    default_target: True
    input:
        REPORT_PAGE,


rule records:
    input:
        RECORDS,


rule tables:
    input:
        REPORT_TABLES,
