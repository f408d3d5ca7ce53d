# Issued elsewhere, and delivered as this host's secrets.
the certificates are in place:
  openhim_host.tls_files:
    - require:
      - openhim: the pillar is allowed
