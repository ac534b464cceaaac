package example;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class UserClientTest {
  private static final String GET_USER = "gatehouse.users.v1.UserService/GetUser";
  private static Testbed testbed;
  private UserClient client;

  @BeforeAll
  static void start() throws Exception {
    testbed = Testbed.start();
  }

  @AfterAll
  static void stop() throws Exception {
    if (testbed != null) {
      testbed.close();
    }
  }

  @BeforeEach
  void connect() throws Exception {
    testbed.reset();
    client =
        new UserClient(
            testbed.target("users"),
            testbed.authority(),
            Path.of("gatehouse.protoset"),
            testbed.token(Map.of("user", "alice")));
  }

  @AfterEach
  void disconnect() {
    client.close();
  }

  @Test
  void clientRetriesWhileTheServiceIsUnavailable() throws Exception {
    testbed.addFault(Map.of("target", GET_USER, "code", "UNAVAILABLE", "times", 2));
    assertEquals("bob@example.test", client.email(testbed.userId("bob")));
    assertEquals(List.of("UNAVAILABLE", "UNAVAILABLE", "OK"), testbed.codes("GetUser"));
  }

  @Test
  void clientGivesUpAfterThreeAttempts() throws Exception {
    testbed.addFault(Map.of("target", GET_USER, "code", "UNAVAILABLE"));
    var error = assertThrows(StatusRuntimeException.class, () -> client.email(testbed.userId("bob")));
    assertEquals(Status.Code.UNAVAILABLE, error.getStatus().getCode());
    assertEquals(3, testbed.codes("GetUser").size());
  }

  @Test
  void clientAsksForALoginWhenItsTokenExpires() throws Exception {
    client.email(testbed.userId("bob"));
    testbed.advanceClock(24 * 60 * 60);
    assertThrows(UserClient.LoginRequired.class, () -> client.email(testbed.userId("bob")));
  }
}
