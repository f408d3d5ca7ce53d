# The first state of every run: a pillar that is not allowed stops here, before anything is touched.
the pillar is allowed:
  openhim.pillar_checked:
    - order: first
    - failhard: true
