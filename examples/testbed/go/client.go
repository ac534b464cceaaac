// Package users is a small client of UserService.
package users

import (
	"context"
	"crypto/x509"
	"errors"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// ErrLoginRequired means that the access token is not accepted; get a new one.
var ErrLoginRequired = errors.New("login required")

// retries has gRPC try a call again while the service is unavailable, three times in all.
const retries = `{"methodConfig": [{
	"name": [{"service": "gatehouse.users.v1.UserService"}],
	"retryPolicy": {
		"maxAttempts": 3,
		"initialBackoff": "0.01s",
		"maxBackoff": "0.1s",
		"backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// Client reads users.
type Client struct {
	connection *grpc.ClientConn
	getUser    protoreflect.MethodDescriptor
	token      string
}

// NewClient returns a client of UserService at target, whose certificate the PEM of an authority verifies.
// The file is what `gatehouse protos` writes; a client with generated code needs none.
func NewClient(target, authority, protoset, token string) (*Client, error) {
	content, err := os.ReadFile(protoset)
	if err != nil {
		return nil, err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(content, &set); err != nil {
		return nil, err
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, err
	}
	method, err := files.FindDescriptorByName("gatehouse.users.v1.UserService.GetUser")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(authority))
	connection, err := grpc.NewClient(
		target,
		grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(roots, "")),
		grpc.WithDefaultServiceConfig(retries),
	)
	if err != nil {
		return nil, err
	}
	return &Client{connection, method.(protoreflect.MethodDescriptor), token}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.connection.Close() }

// Email returns the email address of a user.
func (c *Client) Email(ctx context.Context, userID string) (string, error) {
	request := dynamicpb.NewMessage(c.getUser.Input())
	request.Set(c.getUser.Input().Fields().ByName("user_id"), protoreflect.ValueOfString(userID))
	response := dynamicpb.NewMessage(c.getUser.Output())
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
	err := c.connection.Invoke(ctx, "/gatehouse.users.v1.UserService/GetUser", request, response)
	if status.Code(err) == codes.Unauthenticated {
		return "", ErrLoginRequired
	}
	if err != nil {
		return "", err
	}
	return response.Get(c.getUser.Output().Fields().ByName("email")).String(), nil
}
