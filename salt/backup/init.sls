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

{%- if task.archiver %}

the archiver of the oplog is a unit:
  file.managed:
    - name: /etc/systemd/system/openhim-oplog.service
    - contents: {{ task.archiver | json }}
    - mode: '0644'
    - require:
      - pkg: restic is installed

the archiver starts with the host:
  service.enabled:
    - name: openhim-oplog
    - require:
      - file: the archiver of the oplog is a unit

the oplog is archived:
  openhim_backup.archive_running:
    - require:
      - service: the archiver starts with the host
    - watch:
      - file: the archiver of the oplog is a unit
{%- endif %}

{%- if task.copies_oplog %}

the oplog archive has a second place:
  openhim_backup.oplog_copy_present:
    - require:
      - pkg: restic is installed
    - require_in:
      - openhim_backup: backups are scheduled
{%- endif %}

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
