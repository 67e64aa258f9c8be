// Java reads tasks from standard input, one a line, and prints each result. `tasks.py` describes the format.

import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.security.cert.Certificate;
import java.security.cert.PKIXRevocationChecker.Option;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.*;
import javax.net.ssl.*;

public class Stranger {
  static final CertificateFactory X509;

  static {
    try {
      X509 = CertificateFactory.getInstance("X.509");
    } catch (CertificateException error) {
      throw new IllegalStateException(error);
    }
  }

  public static void main(String[] arguments) throws Exception {
    var lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line; (line = lines.readLine()) != null; ) {
      String[] task = line.split("\t", -1);
      String said;
      try {
        said = "accepted\t" + work(task[1], Arrays.copyOfRange(task, 2, task.length));
      } catch (Exception error) {
        said = "refused\t" + causes(error);
      }
      System.out.println(task[0] + "\t" + said.replace("\n", " "));
    }
  }

  static String causes(Throwable error) {
    var said = new StringJoiner(": ");
    for (; error != null; error = error.getCause()) said.add(String.valueOf(error));
    return said.toString();
  }

  static String work(String kind, String[] a) throws Exception {
    switch (kind) {
      case "parse":
        certificate(a[0]).getExtendedKeyUsage();
        return "";
      case "path":
        path(a[0], a[1], a[2], names(a[3]), names(a[4]), Set.of());
        return "";
      case "fetch":
        path("", a[0], a[1], names(a[2]), List.of(), EnumSet.of(Option.PREFER_CRLS, Option.NO_FALLBACK));
        return "";
      case "ocsp":
        path("", a[0], a[1], names(a[2]), List.of(), EnumSet.of(Option.ONLY_END_ENTITY, Option.NO_FALLBACK));
        return "";
      case "tls":
        return tls(Integer.parseInt(a[0]), a[1], names(a[2]), a[3], names(a[4]));
      default:
        throw new IllegalArgumentException(kind);
    }
  }

  static List<String> names(String text) {
    return text.isEmpty() ? List.of() : List.of(text.split(","));
  }

  static X509Certificate certificate(String name) throws Exception {
    try (var file = new FileInputStream(name)) {
      return (X509Certificate) X509.generateCertificate(file);
    }
  }

  static CertStore lists(List<String> names) throws Exception {
    var found = new ArrayList<CRL>();
    for (String name : names) {
      try (var file = new FileInputStream(name)) {
        found.add(X509.generateCRL(file));
      }
    }
    return CertStore.getInstance("Collection", new CollectionCertStoreParameters(found));
  }

  // With options, the checker of the platform asks at the addresses in the certificates.
  static void path(
      String purpose, String root, String leaf, List<String> cas, List<String> lists, Set<Option> options)
      throws Exception {
    var chain = new ArrayList<Certificate>(List.of(certificate(leaf)));
    for (String ca : cas) chain.add(certificate(ca));
    var parameters = new PKIXParameters(Set.of(new TrustAnchor(certificate(root), null)));
    parameters.setRevocationEnabled(!lists.isEmpty());
    parameters.addCertStore(lists(lists));
    if (!purpose.isEmpty()) {
      var wanted = new X509CertSelector();
      wanted.setExtendedKeyUsage(Set.of(purpose));
      parameters.setTargetCertConstraints(wanted);
    }
    var validator = CertPathValidator.getInstance("PKIX");
    if (!options.isEmpty()) {
      var checker = (PKIXRevocationChecker) validator.getRevocationChecker();
      checker.setOptions(options);
      parameters.addCertPathChecker(checker);
    }
    validator.validate(X509.generateCertPath(chain), parameters);
  }

  static PrivateKey key(String name) throws Exception {
    String text = Files.readString(Path.of(name)).replaceAll("-----[A-Z ]+-----|\\s", "");
    return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(text)));
  }

  static String tls(int port, String root, List<String> chain, String key, List<String> lists) throws Exception {
    var anchors = new PKIXBuilderParameters(Set.of(new TrustAnchor(certificate(root), null)), null);
    anchors.setRevocationEnabled(!lists.isEmpty());
    anchors.addCertStore(lists(lists));
    var trust = TrustManagerFactory.getInstance("PKIX");
    trust.init(new CertPathTrustManagerParameters(anchors));
    KeyManager[] own = null;
    if (!chain.isEmpty()) {
      var store = KeyStore.getInstance("PKCS12");
      store.load(null, null);
      var certificates = new ArrayList<Certificate>();
      for (String name : chain) certificates.add(certificate(name));
      store.setKeyEntry("own", key(key), new char[0], certificates.toArray(new Certificate[0]));
      var keys = KeyManagerFactory.getInstance("PKIX");
      keys.init(store, new char[0]);
      own = keys.getKeyManagers();
    }
    var context = SSLContext.getInstance("TLS");
    context.init(own, trust.getTrustManagers(), null);
    var url = new URL("https://127.0.0.1:" + port + "/.well-known/est/simplereenroll");
    var connection = (HttpsURLConnection) url.openConnection(Proxy.NO_PROXY);
    connection.setSSLSocketFactory(context.getSocketFactory());
    connection.setRequestMethod("POST");
    connection.setDoOutput(true);
    connection.getOutputStream().close();
    return "HTTP " + connection.getResponseCode();
  }
}
