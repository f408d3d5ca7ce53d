# Somebody else installs mongod; it must be there.
mongod is installed:
  file.exists:
    - name: {{ pillar['openhim']['mongodb']['install']['binary'] }}
    - require:
      - openhim: the pillar is allowed
