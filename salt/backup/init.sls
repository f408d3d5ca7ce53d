# restic, the repositories, the schedule and the beacon of a host that has a task in the backups.
{%- set task = salt['openhim_backup.tasks']() %}
include:
  - backup.restic
{%- if task.verifies %}
  - mongodb.install.{{ pillar['openhim']['mongodb']['install']['method'] }}   # a scratch mongod
{%- endif %}

{%- for name in task.repositories %}

the repository {{ name }} is there:
  openhim_backup.repository_present:
    - name: {{ name }}
    - require:
      - pkg: restic is installed
    - require_in:
      - openhim_backup: backups are scheduled
{%- endfor %}

backups are scheduled:
  openhim_backup.scheduled:
    - require:
      - pkg: restic is installed

the minion tells how the backups are:
  beacon.present:
    - name: openhim_backup
    - save: true
    - interval: 60
    - max_age: 1800
    - require:
      - openhim_backup: backups are scheduled
