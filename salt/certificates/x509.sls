# Issued by Salt's x509 modules: the private key never leaves the host.
{%- set certificates = pillar['openhim']['certificates'] %}
{%- set names = salt['openhim_host.certificate_names']() %}
the folder of the certificates exists:
  file.directory:
    - name: /etc/openhim-tls
    - mode: '0755'
    - require:
      - openhim: the pillar is allowed

the authority's certificate is known:
  file.managed:
    - name: /etc/openhim-tls/ca.crt
    - contents_pillar: openhim:secrets:tls_ca
    - mode: '0644'
    - require:
      - file: the folder of the certificates exists

this host has a private key:
  x509.private_key_managed:
    - name: /etc/openhim-tls/host.key
    - algo: ec
    - keysize: 256
    - mode: '0600'
    - unless:
      - fun: openhim_host.certificate_fits
    - require:
      - file: the authority's certificate is known

# Asked for only when the one that is there does not fit: a host that has its certificate does not
# need the authority, which may be lost. All hosts are set up at once, the authority among them: it
# may not be ready yet.
this host has a certificate:
  x509.certificate_managed:
    - name: /etc/openhim-tls/host.crt
    - ca_server: {{ certificates['ca_server'] }}
    - signing_policy: openhim
    - private_key: /etc/openhim-tls/host.key
    - CN: {{ names.common_name }}
    - subjectAltName: {{ names.alternatives | json }}
    - days_valid: {{ certificates.get('days_valid', 825) }}
    - days_remaining: {{ certificates.get('days_remaining', 30) }}
    - mode: '0644'
    - unless:
      - fun: openhim_host.certificate_fits
    - retry:
        attempts: 10
        interval: 3
    - require:
      - x509: this host has a private key
      - file: the authority's certificate is known
