# What a host needs to hold drills: OpenHIM's release, mongod, restic, and what isolates them.
include:
  - openhim.checked
  - openhim.release
  - backup.restic
  - mongodb.install.{{ pillar['openhim']['mongodb']['install']['method'] }}   # a scratch mongod

drills can be isolated:
  pkg.installed:
    - pkgs: [iproute2, nftables, util-linux]
    - require:
      - openhim: the pillar is allowed

drills are scheduled:
  openhim_drill.scheduled:
    - require:
      - pkg: drills can be isolated
      - pkg: restic is installed
      - openhim: OpenHIM is installed

the minion tells how the drills are:
  beacon.present:
    - name: openhim_drill
    - save: true
    - interval: 300
    - require:
      - openhim_drill: drills are scheduled
