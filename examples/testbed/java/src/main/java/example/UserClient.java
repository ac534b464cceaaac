package example;

import com.google.gson.Gson;
import com.google.protobuf.DescriptorProtos.FileDescriptorProto;
import com.google.protobuf.DescriptorProtos.FileDescriptorSet;
import com.google.protobuf.Descriptors.Descriptor;
import com.google.protobuf.Descriptors.DescriptorValidationException;
import com.google.protobuf.Descriptors.FileDescriptor;
import com.google.protobuf.DynamicMessage;
import io.grpc.CallOptions;
import io.grpc.ClientInterceptors;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** A small client of UserService. */
public final class UserClient implements AutoCloseable {
  /** The access token is not accepted; get a new one. */
  public static final class LoginRequired extends RuntimeException {}

  private static final String SERVICE = "gatehouse.users.v1.UserService";

  /** gRPC tries a call again while the service is unavailable, three times in all. */
  private static final String RETRIES =
      """
      {"methodConfig": [{
        "name": [{"service": "gatehouse.users.v1.UserService"}],
        "retryPolicy": {
          "maxAttempts": 3,
          "initialBackoff": "0.01s",
          "maxBackoff": "0.1s",
          "backoffMultiplier": 2,
          "retryableStatusCodes": ["UNAVAILABLE"]
        }
      }]}
      """;

  private final ManagedChannel channel;
  private final Metadata metadata = new Metadata();
  private final MethodDescriptor<DynamicMessage, DynamicMessage> getUser;
  private final Descriptor request;
  private final Descriptor response;

  /**
   * @param target address of UserService
   * @param authority PEM of the authority that verifies its certificate
   * @param protoset the file that `gatehouse protos` writes; a client with generated code needs none
   * @param token access token
   */
  public UserClient(String target, String authority, Path protoset, String token) throws IOException {
    var method = load(protoset).findServiceByName("UserService").findMethodByName("GetUser");
    request = method.getInputType();
    response = method.getOutputType();
    getUser =
        MethodDescriptor.<DynamicMessage, DynamicMessage>newBuilder()
            .setType(MethodType.UNARY)
            .setFullMethodName(MethodDescriptor.generateFullMethodName(SERVICE, "GetUser"))
            .setRequestMarshaller(ProtoUtils.marshaller(DynamicMessage.getDefaultInstance(request)))
            .setResponseMarshaller(ProtoUtils.marshaller(DynamicMessage.getDefaultInstance(response)))
            .build();
    metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    var credentials =
        TlsChannelCredentials.newBuilder()
            .trustManager(new ByteArrayInputStream(authority.getBytes(StandardCharsets.US_ASCII)))
            .build();
    @SuppressWarnings("unchecked")
    Map<String, ?> retries = new Gson().fromJson(RETRIES, Map.class);
    channel = Grpc.newChannelBuilder(target, credentials).defaultServiceConfig(retries).build();
  }

  private static FileDescriptor load(Path protoset) throws IOException {
    Map<String, FileDescriptor> files = new LinkedHashMap<>();
    // A file follows those that it imports.
    for (FileDescriptorProto file : FileDescriptorSet.parseFrom(Files.readAllBytes(protoset)).getFileList()) {
      var imports = file.getDependencyList().stream().map(files::get).toArray(FileDescriptor[]::new);
      try {
        files.put(file.getName(), FileDescriptor.buildFrom(file, imports));
      } catch (DescriptorValidationException error) {
        throw new IOException(protoset + ": " + error.getMessage(), error);
      }
    }
    return files.get("gatehouse/users/v1/users.proto");
  }

  /**
   * Returns the email address of a user.
   *
   * @throws LoginRequired the access token is not accepted
   */
  public String email(String userId) {
    var message =
        DynamicMessage.newBuilder(request).setField(request.findFieldByName("user_id"), userId).build();
    var authorized =
        ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
    var options = CallOptions.DEFAULT.withDeadlineAfter(5, TimeUnit.SECONDS);
    try {
      var user = ClientCalls.blockingUnaryCall(authorized, getUser, options, message);
      return (String) user.getField(response.findFieldByName("email"));
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() == Status.Code.UNAUTHENTICATED) {
        throw new LoginRequired();
      }
      throw error;
    }
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }
}
