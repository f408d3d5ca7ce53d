# `salt '*' state.highstate` makes every declared host what the pillar says it is.
base:
  'I@openhim:stack:*':
    - match: compound
    - openhim
