// Command client makes the calls that it reads as JSON, one a line, and prints the outcome of each.
//
// Access tokens are requested by golang.org/x/oauth2 and sent by the per-RPC credentials of grpc-go. The messages
// are built from the descriptor set that `gatehouse protos` writes, so there is no generated code.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/oauth"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // decodes the details of errors
)

// format has the names of the protos, as in the other languages.
var format = protojson.MarshalOptions{UseProtoNames: true}

// call is one line of the input; its fields are described in tests/interop/foreign.py.
type call struct {
	Target    string
	Method    string
	Requests  []json.RawMessage
	Client    *registration
	Token     string
	Timeout   float64
	Limit     int
	KeepsOpen bool `json:"keeps_open"`
	Gzip      bool
}

// registration is a client at the issuer.
type registration struct {
	ID     string
	Secret string
	Scope  string
}

// outcome is one line of the output.
type outcome struct {
	Code      uint32            `json:"code"`
	Message   string            `json:"message"`
	Details   []json.RawMessage `json:"details"`
	Challenge []string          `json:"challenge"`
	Responses []json.RawMessage `json:"responses"`
}

type client struct {
	tls      credentials.TransportCredentials
	tokenURL string
	files    *protoregistry.Files
}

func main() {
	caFile := flag.String("ca", "", "certificate authority of the services")
	protoset := flag.String("protoset", "", "descriptor set")
	issuer := flag.String("issuer", "", "URL of the issuer")
	flag.Parse()
	if err := run(*caFile, *protoset, *issuer); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(caFile, protoset, issuer string) error {
	tls, err := credentials.NewClientTLSFromFile(caFile, "")
	if err != nil {
		return err
	}
	content, err := os.ReadFile(protoset)
	if err != nil {
		return err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(content, &set); err != nil {
		return err
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return err
	}
	c := &client{tls: tls, tokenURL: issuer + "/protocol/openid-connect/token", files: files}
	lines := bufio.NewScanner(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var one call
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return err
		}
		result, err := c.outcome(one)
		if err != nil {
			return err
		}
		if err := output.Encode(result); err != nil {
			return err
		}
	}
	return lines.Err()
}

// outcome makes a call; an error means that it could not be made.
func (c *client) outcome(one call) (*outcome, error) {
	method, err := c.method(one.Method)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(c.tls)}
	if source := c.tokens(one); source != nil {
		options = append(options, grpc.WithPerRPCCredentials(oauth.TokenSource{TokenSource: source}))
	}
	connection, err := grpc.NewClient(one.Target, options...)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(one.Timeout*float64(time.Second)))
	defer cancel()

	var header, trailer metadata.MD
	settings := []grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer)}
	if one.Gzip {
		settings = append(settings, grpc.UseCompressor("gzip"))
	}
	responses, err := exchange(ctx, connection, method, one, settings)
	if err == io.EOF {
		err = nil
	}
	result := &outcome{Responses: responses, Challenge: append(header.Get("www-authenticate"), trailer.Get("www-authenticate")...)}
	found := status.Convert(err)
	result.Code, result.Message = uint32(found.Code()), found.Message()
	for _, detail := range found.Details() {
		message, ok := detail.(proto.Message)
		if !ok {
			return nil, fmt.Errorf("%s: a detail cannot be decoded: %v", one.Method, detail)
		}
		value, err := format.Marshal(message)
		if err != nil {
			return nil, err
		}
		line, err := json.Marshal(map[string]any{"type": message.ProtoReflect().Descriptor().FullName(), "value": json.RawMessage(value)})
		if err != nil {
			return nil, err
		}
		result.Details = append(result.Details, line)
	}
	return result, nil
}

func (c *client) method(path string) (protoreflect.MethodDescriptor, error) {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "."))
	found, err := c.files.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return found.(protoreflect.MethodDescriptor), nil
}

// tokens returns the source of the access token of a call, nil for none.
func (c *client) tokens(one call) oauth2.TokenSource {
	if one.Client != nil {
		registered := clientcredentials.Config{
			ClientID:     one.Client.ID,
			ClientSecret: one.Client.Secret,
			TokenURL:     c.tokenURL,
			Scopes:       strings.Fields(one.Client.Scope),
			AuthStyle:    oauth2.AuthStyleInHeader,
		}
		return registered.TokenSource(context.Background())
	}
	if one.Token != "" {
		return oauth2.StaticTokenSource(&oauth2.Token{AccessToken: one.Token})
	}
	return nil
}

// exchange sends the requests one after the other, and reads until the end or the limit of responses.
// A bidirectional stream waits for the response to each request before it sends the next.
func exchange(ctx context.Context, connection *grpc.ClientConn, method protoreflect.MethodDescriptor, one call, settings []grpc.CallOption) ([]json.RawMessage, error) {
	var responses []json.RawMessage
	kind := &grpc.StreamDesc{ClientStreams: method.IsStreamingClient(), ServerStreams: method.IsStreamingServer()}
	stream, err := connection.NewStream(ctx, kind, one.Method, settings...)
	if err != nil {
		return nil, err
	}
	receive := func() error {
		response := dynamicpb.NewMessage(method.Output())
		if err := stream.RecvMsg(response); err != nil {
			return err
		}
		line, err := format.Marshal(response)
		if err != nil {
			return err
		}
		responses = append(responses, line)
		return nil
	}
	for _, text := range one.Requests {
		request := dynamicpb.NewMessage(method.Input())
		if err := protojson.Unmarshal(text, request); err != nil {
			return responses, err
		}
		// io.EOF means that the call has ended; RecvMsg returns its status.
		if err := stream.SendMsg(request); err != nil && err != io.EOF {
			return responses, err
		}
		if kind.ClientStreams && kind.ServerStreams {
			if err := receive(); err != nil {
				return responses, err
			}
		}
	}
	if !one.KeepsOpen {
		if err := stream.CloseSend(); err != nil {
			return responses, err
		}
	}
	for one.Limit == 0 || len(responses) < one.Limit {
		if err := receive(); err != nil {
			return responses, err
		}
		if !kind.ServerStreams {
			return responses, nil
		}
	}
	return responses, nil
}
