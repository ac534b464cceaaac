package example;

import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.Map;

/** A running `gatehouse testbed`. */
final class Testbed implements AutoCloseable {
  private final HttpClient http = HttpClient.newHttpClient();
  private final Process process;
  private final JsonObject description;

  private Testbed(Process process, String line) {
    this.process = process;
    this.description = JsonParser.parseString(line).getAsJsonObject();
  }

  /** Starts a test bed, which ends with its standard input: also if this process is killed. */
  static Testbed start() throws IOException {
    var process =
        new ProcessBuilder("gatehouse", "testbed").redirectError(ProcessBuilder.Redirect.INHERIT).start();
    var line = process.inputReader().readLine();
    if (line == null) {
      throw new IOException("gatehouse testbed has ended; see its message above");
    }
    return new Testbed(process, line);
  }

  String target(String service) {
    return description.getAsJsonObject("targets").get(service).getAsString();
  }

  /** PEM of the authority that verifies the certificates of the services. */
  String authority() {
    return description.get("ca_certificate").getAsString();
  }

  /** Id of the entry of a user in UserService. */
  String userId(String user) {
    return description.getAsJsonObject("users").get(user).getAsString();
  }

  String issuer() {
    return description.get("issuer").getAsString();
  }

  /** Secret of a client of the issuer. */
  String secret(String client) {
    return description.getAsJsonObject("clients").get(client).getAsString();
  }

  /** Returns a new access token, such as `{"user": "alice", "name": "expired"}`. */
  String token(Map<String, ?> content) throws IOException, InterruptedException {
    return send("POST", "/tokens", content).getAsJsonObject().get("token").getAsString();
  }

  void addFault(Map<String, ?> fault) throws IOException, InterruptedException {
    send("POST", "/faults", fault);
  }

  void advanceClock(long seconds) throws IOException, InterruptedException {
    send("POST", "/clock", Map.of("seconds", seconds));
  }

  /** Returns the status codes of the calls of an RPC that the services received. */
  List<String> codes(String method) throws IOException, InterruptedException {
    return send("GET", "/calls?method=" + method, Map.of()).getAsJsonArray().asList().stream()
        .map(call -> call.getAsJsonObject().get("code").getAsString())
        .toList();
  }

  void reset() throws IOException, InterruptedException {
    send("POST", "/reset", Map.of());
  }

  private JsonElement send(String method, String path, Map<String, ?> body)
      throws IOException, InterruptedException {
    var request =
        HttpRequest.newBuilder(URI.create(description.get("control_url").getAsString() + path))
            .header("content-type", "application/json")
            .method(method, BodyPublishers.ofString(new Gson().toJson(body)))
            .build();
    var response = http.send(request, BodyHandlers.ofString());
    if (response.statusCode() >= 300) {
      throw new IOException(method + " " + path + ": " + response.statusCode() + " " + response.body());
    }
    return JsonParser.parseString(response.body());
  }

  @Override
  public void close() throws IOException, InterruptedException {
    process.outputWriter().close();
    process.waitFor();
  }
}
