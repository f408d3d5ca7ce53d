# The host that signs the others' certificates. What it signs is limited by the signing policy in
# its pillar (x509_signing_policies).
the folder of the authority exists:
  file.directory:
    - name: /etc/openhim-ca
    - mode: '0700'
    - require:
      - openhim: the pillar is allowed

the authority has its key:
  file.managed:
    - name: /etc/openhim-ca/ca.key
    - contents_pillar: openhim:secrets:tls_ca_key
    - mode: '0600'
    - show_changes: false
    - require:
      - file: the folder of the authority exists
    - require_in:
      - x509: this host has a certificate

the authority has its certificate:
  file.managed:
    - name: /etc/openhim-ca/ca.crt
    - contents_pillar: openhim:secrets:tls_ca
    - mode: '0644'
    - require:
      - file: the folder of the authority exists
    - require_in:
      - x509: this host has a certificate
