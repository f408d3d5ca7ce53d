# The oplog archive of this host runs in the newest epoch: after a recovery, on a new timeline.
include:
  - openhim.checked

{%- if salt['openhim_backup.tasks']().archiver %}

the oplog is archived in this epoch:
  openhim_backup.archive_running:
    - require:
      - openhim: the pillar is allowed
{%- endif %}
