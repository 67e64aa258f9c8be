"""PKCS#10 requests of `keytool` (OpenJDK 17.0.15), `certtool` (GnuTLS 3.7.9), NSS 3.87.1 and Go 1.19.8, all of Debian 12.

The text below each request is the command that made it. `openssl req -outform DER` turned PEM into DER. Keys are P-256
unless the command says otherwise. They were thrown away.
"""

from base64 import b64decode

KEYTOOL = b64decode(
    "MIH8MIGjAgEAMBExDzANBgNVBAMTBmZhYnJpYzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABA8Pbzlgd5EP/bCk+KUtDZVjrFk/"
    "+vg5ESEKKHXQR4F1wHCAS/J6TgAYiHLJ2Z5mRmOQBOrzAVKjpPH6zDp6H56gMDAuBgkqhkiG9w0BCQ4xITAfMB0GA1UdDgQWBBSw"
    "2wllQnTpXkMcUrM/zRyjl2poVDAKBggqhkjOPQQDAgNIADBFAiBvZu9hMjzb9KFaHBQGoth8xLzcQxkYKb85udpTDH4AYwIhAMmN"
    "zqEs4VxfuzECz5A5VfXhGud/wDjkKZ5/N7Pocrn0"
)
"""keytool -genkeypair -keyalg EC -groupname secp256r1 -dname CN=fabric; keytool -certreq."""
KEYTOOL_P384 = b64decode(
    "MIIBOTCBwAIBADARMQ8wDQYDVQQDEwZmYWJyaWMwdjAQBgcqhkjOPQIBBgUrgQQAIgNiAAQp7weuI8a2GVWXyqkdDA0dr+UBxaQV"
    "a5AOU/YJYB4FjWqCV5AqTHuUmNyJ6ikLt7padqP97iMh7G5cZEJCQVli10t1ySHY1NdQsUXppc2TKTLywaXRt0Lp1q+rVsnbzDeg"
    "MDAuBgkqhkiG9w0BCQ4xITAfMB0GA1UdDgQWBBRYKpXNSLL022cl3vMgSwjTz95o3DAKBggqhkjOPQQDAwNoADBlAjEAoPMWIjVX"
    "AhjEUJZTzIFkkUgoUuK8BuZdExpaAY3w54jNiyYqpBlqI6TMsPgSluIkAjB54VhWuMV3AwLaHYlm1tsKjdmVh1R6igsrhXuTWk0t"
    "XlKFXe9ict8tPuc7fytN8Lc="
)
"""The same with -groupname secp384r1."""
KEYTOOL_RESTATING = b64decode(
    "MIIBczCCARoCAQAwETEPMA0GA1UEAxMGZmFicmljMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDw9vOWB3kQ/9sKT4pS0NlWOs"
    "WT/6+DkRIQooddBHgXXAcIBL8npOABiIcsnZnmZGY5AE6vMBUqOk8frMOnofnqCBpjCBowYJKoZIhvcNAQkOMYGVMIGSMB0GA1Ud"
    "DgQWBBSw2wllQnTpXkMcUrM/zRyjl2poVDALBgNVHQ8EBAMCB4AwOgYDVR0RBDMwMYYkc3BpZmZlOi8vY2FzY2FkZS50ZXN0L3Nl"
    "cnZpY2UvZmFicmljgglsb2NhbGhvc3QwCQYDVR0TBAIwADAdBgNVHSUEFjAUBggrBgEFBQcDAQYIKwYBBQUHAwIwCgYIKoZIzj0E"
    "AwIDRwAwRAIgRW5iRcfcfvq7FzlOJ+W90LGiMH7BzAa0B5hcOH0is6gCID4lTmzM2aR+S1L/vTqtCwyOjvgnIP9MA2YDQ+mWNswz"
)
"""keytool -certreq -ext san=uri:spiffe://cascade.test/service/fabric,dns:localhost -ext ku=digitalSignature -ext
eku=serverAuth,clientAuth -ext bc=ca:false."""
KEYTOOL_CA = b64decode(
    "MIIBCjCBsQIBADARMQ8wDQYDVQQDEwZmYWJyaWMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQPD285YHeRD/2wpPilLQ2VY6xZ"
    "P/r4OREhCih10EeBdcBwgEvyek4AGIhyydmeZkZjkATq8wFSo6Tx+sw6eh+eoD4wPAYJKoZIhvcNAQkOMS8wLTAdBgNVHQ4EFgQU"
    "sNsJZUJ06V5DHFKzP80co5dqaFQwDAYDVR0TBAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAqKQV+ma/lqc+kwO1UXhzTW7cmj5+"
    "0VP8X8KGdizc8+kCIGpEU6yDMVLY0KOLglwLjR9OvNAPbYBIteDoLi6lyphf"
)
"""keytool -certreq -ext bc=ca:true."""
KEYTOOL_RSA = b64decode(
    "MIIChjCCAW4CAQAwETEPMA0GA1UEAxMGZmFicmljMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArskDetVh+3JBunps"
    "I63VP2JfAw7WOcWfc78GbRZtiyl1lhcpBFurO0e4dTodsaxdTjPkzL+7XtOuSMcVLxhMSQdGcWf16BX/MEPY0//E3zy3BUaLsAp5"
    "7/lDU/ccX0m5RY8TApxOa9CfEzJjyrZm20Wl22GUo+67kOinaykGKzHgx+mclyCegDQ0tJKD9483szXgdeG7Jn9AuGXYKcdaWXM7"
    "PGr9OelX9GkyXW+YphEazJaCEgC7Mz+qTdYsuPtK5wQ/fbKYq5xCAWEo/Iv0YZHYol5aUgDGEN/1+MJatbz9125QDgJhu2FKpnW7"
    "fyXLoFFTeO6fkXZvB1D8YX6sVwIDAQABoDAwLgYJKoZIhvcNAQkOMSEwHzAdBgNVHQ4EFgQUgZ9iytyxc6bx/1iNVsZ1Se3mM5gw"
    "DQYJKoZIhvcNAQELBQADggEBAJlSEzAdKpaRkK/S7UabtjtnzTku1K7HEWPZ0scfO7LatsQan/CMFVK4bIN1KHj8rJO6zqqpbIwu"
    "a/19/vV2CYA4zUo1slMaJD282zOhNLH+iahmHEjoEM7UXatST8dxyznaufDXN+vFMU6kRHQuYZQo0AbqzVb9Mzn/jEutNRSIcPyn"
    "MaijhjQ+fA1UDJromwLo7a+WJBjIEdkhdmW4CjHf40V55iNI0jiagMBx2Vr6CVKAdp6tw02LcmCZab+E6vc5NVOAGAOqg7pkdxPB"
    "JAo9fO5jRlZxrP8CtPUB1gLZsgbzaaMa49Wx6COdmPDsdo/V9mK3ZcuyG7XiG8ab3uk="
)
"""keytool -genkeypair -keyalg RSA -keysize 2048; keytool -certreq."""
CERTTOOL = b64decode(
    "MIH7MIGiAgEAMBExDzANBgNVBAMTBmZhYnJpYzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFw385cHPj5eif+Wr6mvHed6Nuj3"
    "ZL9v5b+IUawZZPH31zyk6qCzxVgZ1gwX8cltq6LoWZWFamQiLxr8u/1aBHugLzAtBgkqhkiG9w0BCQ4xIDAeMAwGA1UdEwEB/wQC"
    "MAAwDgYDVR0PAQH/BAQDAgeAMAoGCCqGSM49BAMCA0gAMEUCIQCTs8jkPSUMV+ddF/B8K839FM4JTncDuwJv0Mb5P3xSXAIgGrcD"
    "0oGZFekLe3hz5zohzZWYkfquj31rc+CY70B88FI="
)
"""certtool --generate-request, template: cn = "fabric" and nothing else."""
CERTTOOL_QUESTIONS = b64decode(
    "MIHpMIGRAgEAMAAwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARcN/OXBz4+Xon/lq+prx3nejbo92S/b+W/iFGsGWTx99c8pOqg"
    "s8VYGdYMF/HJbaui6FmVhWpkIi8a/Lv9WgR7oC8wLQYJKoZIhvcNAQkOMSAwHjAMBgNVHRMBAf8EAjAAMA4GA1UdDwEB/wQEAwIH"
    "gDAKBggqhkjOPQQDAgNHADBEAiBNGfSDGPzI2YR6/mpZaDVXWOdgIm+kDSsnUODnkC6TgAIgJL4iGWEJgFZU/T4jhySCnf+W/aFf"
    "//Ix1+seElKQLqc="
)
"""certtool --generate-request without a template, and the default answer to each question."""
CERTTOOL_TLS = b64decode(
    "MIIBHTCBxAIBADARMQ8wDQYDVQQDEwZmYWJyaWMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARcN/OXBz4+Xon/lq+prx3nejbo"
    "92S/b+W/iFGsGWTx99c8pOqgs8VYGdYMF/HJbaui6FmVhWpkIi8a/Lv9WgR7oFEwTwYJKoZIhvcNAQkOMUIwQDAMBgNVHRMBAf8E"
    "AjAAMA4GA1UdDwEB/wQEAwIHgDAgBgNVHSUBAf8EFjAUBggrBgEFBQcDAgYIKwYBBQUHAwEwCgYIKoZIzj0EAwIDSAAwRQIgSEEk"
    "RGWsIC/6wYr2veN0k5Itr28M6rjI3vkCFt23WSkCIQDZ76saNW//U6Fvk8qlaluSPB5DbsSY/PWRTnp++x3u2g=="
)
"""Template: cn = "fabric", signing_key, tls_www_server, tls_www_client."""
CERTTOOL_NAMES = b64decode(
    "MIIBNzCB3gIBADARMQ8wDQYDVQQDEwZmYWJyaWMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARcN/OXBz4+Xon/lq+prx3nejbo"
    "92S/b+W/iFGsGWTx99c8pOqgs8VYGdYMF/HJbaui6FmVhWpkIi8a/Lv9WgR7oGswaQYJKoZIhvcNAQkOMVwwWjA6BgNVHREEMzAx"
    "gglsb2NhbGhvc3SGJHNwaWZmZTovL2Nhc2NhZGUudGVzdC9zZXJ2aWNlL2ZhYnJpYzAMBgNVHRMBAf8EAjAAMA4GA1UdDwEB/wQE"
    "AwIHgDAKBggqhkjOPQQDAgNIADBFAiAYqwtQGiTNXZtFFI+SffKLjLqBHH3AMi8eFuU4ECVAcQIhAO97ia7tM+nfQeIAr/E4UCqO"
    "NRWugufK9vyT7kSWf0Xm"
)
"""Template: cn = "fabric", uri = "spiffe://cascade.test/service/fabric", dns_name = "localhost", signing_key."""
CERTTOOL_CA = b64decode(
    "MIH9MIGlAgEAMBExDzANBgNVBAMTBmZhYnJpYzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFw385cHPj5eif+Wr6mvHed6Nuj3"
    "ZL9v5b+IUawZZPH31zyk6qCzxVgZ1gwX8cltq6LoWZWFamQiLxr8u/1aBHugMjAwBgkqhkiG9w0BCQ4xIzAhMA8GA1UdEwEB/wQF"
    "MAMBAf8wDgYDVR0PAQH/BAQDAgKEMAoGCCqGSM49BAMCA0cAMEQCIB4TWT4301GZBVJHTfGAsQ7Gysc6PJcg7JaBnaJvQ7VCAiAn"
    "wQ8NfK3xvA4AIiIs50wWHkuDEARLhcth/9rK9AcPtg=="
)
"""Template: cn = "fabric", ca, cert_signing_key."""
CERTTOOL_MAIL = b64decode(
    "MIIBEjCBugIBADARMQ8wDQYDVQQDEwZmYWJyaWMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARcN/OXBz4+Xon/lq+prx3nejbo"
    "92S/b+W/iFGsGWTx99c8pOqgs8VYGdYMF/HJbaui6FmVhWpkIi8a/Lv9WgR7oEcwRQYJKoZIhvcNAQkOMTgwNjAMBgNVHRMBAf8E"
    "AjAAMBYGA1UdJQEB/wQMMAoGCCsGAQUFBwMEMA4GA1UdDwEB/wQEAwIHgDAKBggqhkjOPQQDAgNHADBEAiAhHECHqkQG4XijaMJO"
    "Z5ZkkqtJFg6WtqdKARH+ZNU/JQIgF9M9FWCp4SiKoegKo9m7qJJ9ecyZMMQiEVeIgn2AJGM="
)
"""Template: cn = "fabric", signing_key, email_protection_key."""
CERTTOOL_RSA = b64decode(
    "MIIChTCCAW0CAQAwETEPMA0GA1UEAxMGZmFicmljMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAs9WcS1BSt/3wpMvw"
    "PDk6ToOvdoYEi3tBNTtcGg7csQVJsAlvMrqSHkqWzg45MxhTXmYqVLoZ6JW8n9cDdYcqWKtD411ambBmmN1ihNFjWgS1LzEREUMW"
    "36/Aw6aPbXsTkkXTHSJrV/5TlhqLBvxZryp+K84qWM14eINtARA9e7MURfpR6IZlCKDymy9x//aIbj1UlUOHV7GoUngTXsPgAd3b"
    "x8+rXLyJG7TkH42aqEmUO4kPjMV6Wh5CjgdZdlUTmSX+qdnVf/Q7bbMld2okTreKB5lKV38qJcmAoVkLhsDl+Yb5lxSD7bJ7F8f6"
    "CFB5UQmJ9w0BOBqIcdEJVhS+RwIDAQABoC8wLQYJKoZIhvcNAQkOMSAwHjAMBgNVHRMBAf8EAjAAMA4GA1UdDwEB/wQEAwIHgDAN"
    "BgkqhkiG9w0BAQsFAAOCAQEAhmGID2GEYpyGhZkGwYBxalh/IG53CbKU28l4vj6NKy053gbzOOAKhg+MUyAnN0rD97AvrPbWTb1v"
    "qBmzjw1+00xBd0FKOH00w3cmuCJxRmPphD54BPVhHcgpa9H2IoHCrbOnEPdjxiP1/264FZDRcB7Cb1snGfI6416a8s3Q5+T7XE4t"
    "+QzUQndbED81+WYvw6qd0uNAW7YOlTi5LF9vGfDDxoaiKsc+sN24s2JbtLfA5yfaqBMF7tLDctOHLjTDpgo5iOGBaYvCHINoEpCo"
    "BniF5h9x7YMflsM2XmkbG1J1/28uF5yNJirMYjtotjnri40x0jkASp1Pz1yklNfy3Q=="
)
"""certtool --generate-privkey --key-type rsa --bits 2048; template: cn = "fabric"; the key is RSA."""
NSS = b64decode(
    "MIHLMHMCAQAwETEPMA0GA1UEAxMGZmFicmljMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE7DM0feiwZTANdhy14PF2lgO4ZfmrRYF/"
    "C1y7exKh/N8MiFkD7FvV0dcXNf2Rz0yMPmX4Ya4/f2BkTSUqLbDnkqAAMAoGCCqGSM49BAMCA0gAMEUCIQC04wI7HKexDjtAhUTH37Yo"
    "MI8RLVlL26KjY6w/15+LTAIgc3tuUDrzUoY2YWdxQUtCi6avuwwcQUhGeT+jeMcEWgY="
)
"""certutil -N --empty-password; certutil -R -k ec -q nistp256 -s CN=fabric."""
GO = b64decode(
    "MIHLMHMCAQAwETEPMA0GA1UEAxMGZmFicmljMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEmHnSixdHaDTNjJYC7V3mCEUOvoAFDJPH"
    "9Xg0Vl4tG8OUFcaD1crYunyzsgFs0FNpZjgRxFotbzya/c2P+OtLxqAAMAoGCCqGSM49BAMCA0gAMEUCIQDOGbl9fTlKFsnQ6yhUqa62"
    "EhNXlEoZtIkx/XM2JD1lzwIgcWWzRZSL+1fO+BYrCjWBBORjx4BMyZF+AWVatl6gB38="
)
"""x509.CreateCertificateRequest with the subject `pkix.Name{CommonName: "fabric"}` alone."""
