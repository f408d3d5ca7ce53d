# What people need when nothing answers: every host holds the runbook, and the ones before it.
the runbook is at hand:
  openhim_plan.runbook_present: []
